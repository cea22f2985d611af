"""Inference: flows fitted to data, guides fitted to posteriors, and what corrects a guide."""

from __future__ import annotations

from pyro_nf.infer._annealed import AnnealedResult
from pyro_nf.infer._psis import Diagnostics
from pyro_nf.infer._recipe.options import Annealing
from pyro_nf.infer.annealed import annealed_importance_sampling
from pyro_nf.infer.calibration import CalibrationResult
from pyro_nf.infer.density import fit_density
from pyro_nf.infer.flow_matching import fit_flow_matching
from pyro_nf.infer.guide import fit_guide
from pyro_nf.infer.guide_fit import GuideFit
from pyro_nf.infer.importance import ImportanceResult, importance_resample
from pyro_nf.infer.metropolis import MetropolisResult, independence_metropolis
from pyro_nf.infer.neutra import NeutraModel, neutra
from pyro_nf.infer.result import FitResult
from pyro_nf.infer.sbc import sbc
from pyro_nf.infer.target import fit_target

__all__ = [
    "AnnealedResult",
    "Annealing",
    "CalibrationResult",
    "Diagnostics",
    "FitResult",
    "GuideFit",
    "ImportanceResult",
    "MetropolisResult",
    "NeutraModel",
    "annealed_importance_sampling",
    "fit_density",
    "fit_flow_matching",
    "fit_guide",
    "fit_target",
    "importance_resample",
    "independence_metropolis",
    "neutra",
    "sbc",
]
