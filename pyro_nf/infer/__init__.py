"""Inference: flows fitted to data, guides fitted to posteriors."""

from __future__ import annotations

from pyro_nf.infer._recipe.options import Annealing
from pyro_nf.infer.density import fit_density
from pyro_nf.infer.flow_matching import fit_flow_matching
from pyro_nf.infer.guide import fit_guide
from pyro_nf.infer.guide_fit import GuideFit
from pyro_nf.infer.result import FitResult
from pyro_nf.infer.target import fit_target

__all__ = [
    "Annealing",
    "FitResult",
    "GuideFit",
    "fit_density",
    "fit_flow_matching",
    "fit_guide",
    "fit_target",
]
