"""Numbers and versions that a file of draws carries along."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pyro_nf import __version__
from pyro_nf.infer._psis import Diagnostics
from pyro_nf.infer.guide_fit import GuideFit


def attributes(
    numbers: Diagnostics, guide: Any, weights: str, seed: int, fit: GuideFit | None
) -> dict[str, Any]:
    """Collects the attributes: strings and numbers only, as files take no others.

    Args:
        numbers: What the weights tell.
        guide: The guide.
        weights: "psis" or "raw".
        seed: The seed of the draws.
        fit: The fit, if there is one.
    """
    found = {
        "inference_library": "pyro_nf",
        "inference_library_version": __version__,
        "pyro_version": _version("pyro-ppl"),
        "torch_version": _version("torch"),
        "arviz_version": _version("arviz"),
        "guide": getattr(guide, "__name__", type(guide).__name__),
        "weights": weights,
        "seed": seed,
        "num_draws": numbers.draws,
        "refused_draws": numbers.non_finite,
        "k_hat": numbers.k_hat,
        "ess": numbers.ess,
        "var_log_w": numbers.var_log_w,
        "elbo": numbers.elbo,
        "elbo_se": numbers.elbo_se,
        "log_evidence": numbers.log_evidence,
        "log_evidence_se": numbers.log_evidence_se,
    }
    if fit is not None:
        found |= {
            "fit_seconds": fit.seconds,
            "fit_steps": len(fit.losses),
            "fit_best_step": fit.best_step,
            "fit_skipped": fit.skipped,
            "fit_stopped": fit.stopped,
            "fit_stages": ", ".join(stage.name for stage in fit.stages),
        }
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
