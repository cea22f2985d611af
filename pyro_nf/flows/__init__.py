"""Named flows: one short function each. Calling the result gives a Pyro distribution."""

from pyro_nf.flows.autoregressive import iaf, maf
from pyro_nf.flows.block import bnaf
from pyro_nf.flows.circular import circular_nsf
from pyro_nf.flows.continuous import cnf, ot_flow, rnode
from pyro_nf.flows.convex import convex_potential
from pyro_nf.flows.coupling import nice, realnvp
from pyro_nf.flows.dequantizer import dequantizer
from pyro_nf.flows.glow import glow
from pyro_nf.flows.integral import umnn
from pyro_nf.flows.mixture import flow_plus_plus, gaussianization
from pyro_nf.flows.neural import naf
from pyro_nf.flows.polynomial import bernstein, sos
from pyro_nf.flows.residual import residual_flow
from pyro_nf.flows.spline import nsf
from pyro_nf.flows.vector import planar, radial, sylvester

__all__ = [
    "bernstein",
    "bnaf",
    "circular_nsf",
    "cnf",
    "convex_potential",
    "dequantizer",
    "flow_plus_plus",
    "gaussianization",
    "glow",
    "iaf",
    "maf",
    "naf",
    "nice",
    "nsf",
    "ot_flow",
    "planar",
    "radial",
    "realnvp",
    "residual_flow",
    "rnode",
    "sos",
    "sylvester",
    "umnn",
]
