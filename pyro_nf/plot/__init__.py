"""Pictures of flows and fits; they need matplotlib: ``pip install "pyro_nf[plot]"``.

Every function draws into axes that it is given or makes new ones, and returns them.
"""

from __future__ import annotations

from pyro_nf.plot.elbo import elbo_trace
from pyro_nf.plot.evaluations import evaluations
from pyro_nf.plot.field import trajectories, vector_field
from pyro_nf.plot.losses import losses
from pyro_nf.plot.pairs import pairs
from pyro_nf.plot.plane import density, grid

__all__ = [
    "density",
    "elbo_trace",
    "evaluations",
    "grid",
    "losses",
    "pairs",
    "trajectories",
    "vector_field",
]
