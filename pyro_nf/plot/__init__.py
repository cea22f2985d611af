"""Pictures of flows and fits; they need matplotlib: ``pip install "pyro_nf[plot]"``.

Every function draws into axes that it is given or makes new ones, and returns them.
"""

from __future__ import annotations

from pyro_nf.plot.calibration import calibration
from pyro_nf.plot.elbo import elbo_trace
from pyro_nf.plot.evaluations import evaluations
from pyro_nf.plot.field import trajectories, vector_field
from pyro_nf.plot.losses import losses
from pyro_nf.plot.pairs import pairs
from pyro_nf.plot.plane import density, grid
from pyro_nf.plot.reweighted import base_space, reweighted
from pyro_nf.plot.weights import k_hats, weight_tail

__all__ = [
    "base_space",
    "calibration",
    "density",
    "elbo_trace",
    "evaluations",
    "grid",
    "k_hats",
    "losses",
    "pairs",
    "reweighted",
    "trajectories",
    "vector_field",
    "weight_tail",
]
