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
from pyro_nf.infer.iwelbo import IWELBO
from pyro_nf.infer.loo import loo_approximate_posterior
from pyro_nf.infer.metropolis import MetropolisResult, independence_metropolis
from pyro_nf.infer.neutra import NeutraModel, neutra
from pyro_nf.infer.report import ReportCard, report
from pyro_nf.infer.result import FitResult
from pyro_nf.infer.sbc import sbc
from pyro_nf.infer.target import fit_target
from pyro_nf.infer.to_arviz import to_arviz

__all__ = [
    "AnnealedResult",
    "Annealing",
    "CalibrationResult",
    "Diagnostics",
    "FitResult",
    "GuideFit",
    "IWELBO",
    "ImportanceResult",
    "MetropolisResult",
    "NeutraModel",
    "ReportCard",
    "annealed_importance_sampling",
    "fit_density",
    "fit_flow_matching",
    "fit_guide",
    "fit_target",
    "importance_resample",
    "independence_metropolis",
    "loo_approximate_posterior",
    "neutra",
    "report",
    "sbc",
    "to_arviz",
]
