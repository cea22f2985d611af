"""What importance weights tell of a guide: Pareto smoothing, evidence, efficiency."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import torch
from torch import Tensor

# Below this variance of log w the weights are as good as equal: importance sampling can only
# agree with the guide, and the Pareto fit sees rounding errors and the noise of a short tail.
_NEGLIGIBLE_VARIANCE = 0.01
# With fewer draws ArviZ's tail, a fifth of them, is too short for a Pareto fit.
_FEWEST_DRAWS = 25


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    r"""What the log weights :math:`\log w_n = \log p_n - \log q_n` of draws from q tell.

    A draw whose weight is not finite has weight zero in the evidence and the efficiency, and no
    part in the other numbers.

    Attributes:
        elbo: Mean of log w in nats.
        elbo_se: Its standard error.
        log_evidence: :math:`\log \frac1N \sum_n w_n` in nats.
        log_evidence_se: Its standard error, by the delta method; far too small if ``k_hat`` > .7.
        k_hat: Shape of the Pareto tail of the weights: below .7 they can be used. ``inf`` with
            fewer than 25 draws.
        ess: Efficiency :math:`(\sum w)^2 / (N \sum w^2)`, the share of the draws that counts.
        var_log_w: Variance of log w.
        draws: Number of draws N.
        non_finite: How many of them had a weight that is not finite.
    """

    elbo: float
    elbo_se: float
    log_evidence: float
    log_evidence_se: float
    k_hat: float
    ess: float
    var_log_w: float
    draws: int
    non_finite: int

    @property
    def k_hat_matters(self) -> bool:
        """Whether ``k_hat`` says anything: near perfection it raises false alarms."""
        return self.var_log_w >= _NEGLIGIBLE_VARIANCE

    @property
    def is_good(self) -> bool:
        """Whether the weights can be used: k̂ < .7, or a variance so small that k̂ is moot."""
        return self.non_finite < self.draws and (self.k_hat < 0.7 or not self.k_hat_matters)


def diagnostics(log_p: Tensor, log_q: Tensor) -> Diagnostics:
    """Computes what the weights of draws from a guide tell.

    Args:
        log_p: Log joint density at the draws, of shape ``(draws,)``.
        log_q: Log density of the guide there, of the same shape.

    Returns:
        The numbers. Without a finite weight the ELBO and the evidence are minus infinity.

    Raises:
        ValueError: If the shapes differ, are no vectors, or there is no draw.
    """
    log_weights = checked_log_weights("diagnostics", log_p, log_q)
    total = len(log_weights)
    finite = log_weights[log_weights.isfinite()]
    if len(finite) == 0:
        return Diagnostics(
            elbo=-math.inf,
            elbo_se=math.inf,
            log_evidence=-math.inf,
            log_evidence_se=math.inf,
            k_hat=math.inf,
            ess=0.0,
            var_log_w=math.inf,
            draws=total,
            non_finite=total,
        )
    variance = float(finite.var(correction=0))
    log_evidence, log_evidence_se, ess = evidence(log_weights)
    return Diagnostics(
        elbo=float(finite.mean()),
        elbo_se=math.sqrt(variance / len(finite)),
        log_evidence=log_evidence,
        log_evidence_se=log_evidence_se,
        k_hat=psis(finite)[1],
        ess=ess,
        var_log_w=variance,
        draws=total,
        non_finite=total - len(finite),
    )


def checked_log_weights(owner: str, log_p: Tensor, log_q: Tensor) -> Tensor:
    """``log_p - log_q`` in float64, checked to be one non-empty vector."""
    if log_p.shape != log_q.shape or log_p.ndim != 1 or len(log_p) == 0:
        raise ValueError(
            f"{owner} got log_p of shape {tuple(log_p.shape)} and log_q of shape "
            f"{tuple(log_q.shape)}. Pass two vectors of one length, a number for each draw."
        )
    return log_p.detach().double() - log_q.detach().double()


def evidence(log_weights: Tensor) -> tuple[float, float, float]:
    """Log mean weight, its standard error (delta method), and the efficiency of the weights.

    Args:
        log_weights: Shape ``(n,)``; what is not finite counts as weight zero.

    Returns:
        ``(log evidence, standard error, efficiency)``; ``(-inf, inf, 0)`` if all weights are zero.
    """
    count = len(log_weights)
    finite = log_weights[log_weights.isfinite()].double()
    if len(finite) == 0:
        return -math.inf, math.inf, 0.0
    total = torch.logsumexp(finite, 0)
    share = (finite - total).exp()  # sums to one
    ess = float(1 / share.square().sum())  # in draws
    # Var(w) / mean(w)² = N / ESS - 1 over all N draws, those of weight zero included.
    return float(total) - math.log(count), math.sqrt(max(1 / ess - 1 / count, 0.0)), ess / count


def psis(log_weights: Tensor) -> tuple[Tensor, float]:
    """Pareto-smoothed log weights, normalised to a sum of one, and the tail's shape k̂.

    The smoothing is ArviZ's, of either major version. Weights that are not finite become zero.

    Args:
        log_weights: Shape ``(n,)``.

    Returns:
        Log weights of shape ``(n,)`` in float64, and k̂: ``inf`` with fewer than 25 finite
        weights, 0 if all are equal.

    Raises:
        ValueError: If no weight is finite.

    References:
        Pareto Smoothed Importance Sampling (Vehtari, Simpson, Gelman, Yao, Gabry, 2024),
        arXiv 1507.02646.

    Examples:
        >>> import torch
        >>> log_weights, k_hat = psis(torch.randn(1000).mul(0.1))
        >>> round(log_weights.exp().sum().item(), 6), k_hat < 0.7
        (1.0, True)
    """
    log_weights = log_weights.detach().double()
    keep = log_weights.isfinite()
    finite = log_weights[keep]
    if len(finite) == 0:
        raise ValueError(
            f"psis got {len(log_weights)} weights of which none is finite: the model has zero "
            "density at every draw. Refit the guide, or check the model's supports."
        )
    k_hat = math.inf
    if len(finite) >= _FEWEST_DRAWS:
        if bool((finite == finite[0]).all()):
            k_hat = 0.0  # ArviZ finds no tail and says infinity
        else:
            smoothed, k_hat = _smoothed((finite - finite.max()).cpu().numpy())
            finite = torch.as_tensor(smoothed).to(log_weights)
    normalized = torch.full_like(log_weights, -math.inf)
    normalized[keep] = finite - torch.logsumexp(finite, 0)
    return normalized, k_hat


def _smoothed(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """ArviZ's smoothed log weights and k̂; ArviZ is imported late because that is slow."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):  # its fit overflows to zero weights
        warnings.simplefilter("ignore")  # 0.23 announces version 1, which warns of large k̂
        try:
            from arviz import psislw
        except ImportError:
            # Version 1 takes log likelihoods, whose inverses are the weights.
            array_stats = import_module("arviz_stats.base").array_stats
            smoothed, k_hat = array_stats.psislw(-log_weights)
        else:
            smoothed, k_hat = psislw(log_weights)
    # Version 1 says NaN where the tail is too short for a fit, the other infinity.
    return np.array(smoothed), math.inf if math.isnan(k_hat) else float(k_hat)
