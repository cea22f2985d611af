"""Named flows: one short function each. Calling the result gives a Pyro distribution."""

from pyro_nf.flows.autoregressive import iaf, maf
from pyro_nf.flows.coupling import nice, realnvp
from pyro_nf.flows.spline import nsf

__all__ = ["iaf", "maf", "nice", "nsf", "realnvp"]
