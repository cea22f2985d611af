"""How far a guide's draws and weights are from a posterior."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_nf.infer._psis import Diagnostics, diagnostics

SHARE_OF_A_MODE = 0.05  # by how much the mass of one of two equal modes may be off


@dataclass(frozen=True, kw_only=True)
class Score:
    """The numbers of one fit; None where one does not apply.

    Attributes:
        gap: Log evidence minus ELBO in nats.
        gap_se: Standard error of the ELBO.
        exact_gap: Whether the log evidence is exact, not the guide's own estimate.
        ess: Efficiency of the importance weights.
        k_hat: Shape of their Pareto tail.
        var_log_w: Variance of their logarithms.
        good_weights: Whether k̂ < .7, or the variance is so small that k̂ is moot.
        w1: Mean marginal Wasserstein distance from exact draws, over that of exact draws from each
            other.
        mean_error: Largest error of a mean in standard deviations.
        sd_low: Smallest ratio of a standard deviation to the exact one.
        sd_high: Largest such ratio.
        modes: Mass of the right one of two modes.
        alarm: Whether the report says that a mode was lost.
        seconds: CPU time of the fit.
    """

    gap: float
    gap_se: float
    exact_gap: bool
    ess: float
    k_hat: float
    var_log_w: float
    good_weights: bool
    w1: float
    mean_error: float | None = None
    sd_low: float | None = None
    sd_high: float | None = None
    modes: float | None = None
    alarm: bool | None = None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Goal:
    """Bounds that a fit is to keep; None where there is none.

    Attributes:
        gap: Largest gap in nats.
        ess: Least efficiency.
        k_hat: Largest k̂.
        w1: Largest ratio of Wasserstein distances.
        mean_error: Largest error of a mean in standard deviations.
        sd_error: Largest relative error of a standard deviation.
        good_weights: Whether the weights have to be good.
        modes: Whether both modes have to be there with their masses.
        modes_or_alarm: Whether they have to, or the report to give the alarm.
        seconds: Longest CPU time of the fit.
    """

    gap: float | None = None
    ess: float | None = None
    k_hat: float | None = None
    w1: float | None = None
    mean_error: float | None = None
    sd_error: float | None = None
    good_weights: bool = False
    modes: bool = False
    modes_or_alarm: bool = False
    seconds: float = 60.0

    def misses(self, score: Score) -> list[str]:
        """Names the bounds that a score does not keep."""
        both = score.modes is not None and abs(score.modes - 0.5) <= SHARE_OF_A_MODE
        sd_low, sd_high = score.sd_low or math.nan, score.sd_high or math.nan
        kept = {
            "gap": self.gap is None or score.gap <= self.gap,
            "ESS": self.ess is None or score.ess >= self.ess,
            "k̂": self.k_hat is None or score.k_hat <= self.k_hat,
            "W1": self.w1 is None or score.w1 <= self.w1,
            "mean": self.mean_error is None or (score.mean_error or 0.0) <= self.mean_error,
            "sd": self.sd_error is None
            or 1 - self.sd_error <= sd_low <= sd_high <= 1 + self.sd_error,
            "weights": not self.good_weights or score.good_weights,
            "modes": not self.modes or both,
            "alarm": not self.modes_or_alarm or both or bool(score.alarm),
            "time": score.seconds <= self.seconds,
        }
        return [name for name, fine in kept.items() if not fine]


def score(
    log_p: Tensor,
    log_q: Tensor,
    rows: Tensor,
    reference: Tensor,
    *,
    log_evidence: float | None,
    has_moments: bool,
    has_modes: bool,
) -> Score:
    """Scores draws of a guide.

    Args:
        log_p: Log joint density at the draws, (n,).
        log_q: Log density of the guide there, (n,).
        rows: The draws, (n, columns).
        reference: Draws of the posterior, (blocks, m, columns), n a multiple of m.
        log_evidence: Exact log evidence, or None for the guide's own estimate.
        has_moments: Whether to compare means and standard deviations.
        has_modes: Whether to count how often the first column is positive.
    """
    numbers: Diagnostics = diagnostics(log_p, log_q)
    rows = rows.double()
    mean_error = sd_low = sd_high = None
    if has_moments:
        exact = reference.flatten(0, 1)
        spread = exact.std(0)
        mean_error = float(((rows.mean(0) - exact.mean(0)).abs() / spread).max())
        ratio = rows.std(0) / spread
        sd_low, sd_high = float(ratio.min()), float(ratio.max())
    return Score(
        gap=(numbers.log_evidence if log_evidence is None else log_evidence) - numbers.elbo,
        gap_se=numbers.elbo_se,
        exact_gap=log_evidence is not None,
        ess=numbers.ess,
        k_hat=numbers.k_hat,
        var_log_w=numbers.var_log_w,
        good_weights=numbers.is_good,
        w1=wasserstein_ratio(rows.unflatten(0, (-1, reference.shape[1])), reference),
        mean_error=mean_error,
        sd_low=sd_low,
        sd_high=sd_high,
        modes=float((rows[:, 0] > 0).double().mean()) if has_modes else None,
    )


def wasserstein_ratio(draws: Tensor, reference: Tensor) -> float:
    """Distance of draws from a reference, over that of the reference's blocks from each other.

    The distance is the Wasserstein-1 distance of marginals, the mean difference of the sorted
    values, in units of half the reference's central 68 %, averaged over marginals and over pairs
    of blocks. Of exact draws the ratio is 1 in expectation.

    Args:
        draws: Shape (blocks, n, columns).
        reference: Shape (other blocks, n, columns).
    """
    flat = reference.flatten(0, 1).sort(0).values
    scale = (flat[int(0.84 * len(flat))] - flat[int(0.16 * len(flat))]) / 2
    draws, reference = (part.sort(1).values / scale for part in (draws, reference))
    across = [(block - reference).abs().mean() for block in draws]
    pairs = itertools.combinations(reference, 2)
    within = [(first - second).abs().mean() for first, second in pairs]
    return float(torch.stack(across).mean() / torch.stack(within).mean())
