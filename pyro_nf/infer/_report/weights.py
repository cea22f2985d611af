"""What the importance weights say of a guide, line by line."""

from __future__ import annotations

import math

from pyro_nf.infer._psis import Diagnostics
from pyro_nf.infer._report.card import Line, Verdict

# A divergence of .05 nats leaves no mean off by more than sqrt(2 * .05) = .3 standard deviations
# in any direction, and far less in each of several.
_SMALL_GAP = 0.05
# For nearly equal weights var(log w) is twice the divergence.
_SMALL_VARIANCE = 2 * _SMALL_GAP
_GOOD_EFFICIENCY = 0.9
_ENOUGH_DRAWS = 400
_FEW_NON_FINITE = 0.01


def most_k_hat(draws: int) -> float:
    """The k̂ from which on weights of so many draws cannot be used: .7, or less below 2200."""
    return min(1 - 1 / math.log10(max(draws, 11)), 0.7)


def weights_fail(numbers: Diagnostics) -> bool:
    """Whether the tail of the weights is so heavy that nothing computed from them holds."""
    return numbers.k_hat_matters and numbers.k_hat >= most_k_hat(numbers.draws)


def weight_lines(numbers: Diagnostics) -> list[Line]:
    """Creates the lines on ELBO, log evidence, k̂, efficiency, variance and non-finite weights."""
    if numbers.non_finite == numbers.draws:
        return [non_finite_line(numbers)]
    return [
        elbo_line(numbers.elbo, numbers.elbo_se),
        _log_evidence(numbers),
        _k_hat(numbers),
        _efficiency(numbers),
        _variance(numbers),
        non_finite_line(numbers),
    ]


def elbo_line(elbo: float, elbo_se: float) -> Line:
    """Creates the line on the ELBO, which alone says nothing of how good a guide is."""
    if not math.isfinite(elbo):
        return Line("ELBO", f"{elbo}", "do not use", "the model has no density at the draws")
    reading = "a lower bound of the log evidence, for comparing guides of one model"
    return Line("ELBO", f"{elbo:.3f} ± {elbo_se:.3f}", "good", reading)


def non_finite_line(numbers: Diagnostics) -> Line:
    """Creates the line on draws at which a density was not finite."""
    name, value = "non-finite weights", f"{numbers.non_finite} of {numbers.draws}"
    if numbers.non_finite == 0:
        return Line(name, value, "good", "both densities are finite at every draw")
    if numbers.non_finite <= _FEW_NON_FINITE * numbers.draws:
        reading = "draws where the model has no density; reweighting drops them"
        return Line(name, value, "usable with reweighting", reading)
    return Line(name, value, "do not use", "the guide draws where the model has no density")


def _log_evidence(numbers: Diagnostics) -> Line:
    gap = numbers.log_evidence - numbers.elbo
    value = f"{numbers.log_evidence:.3f} ± {numbers.log_evidence_se:.3f}"
    above = f"{gap:.3f} above the ELBO"
    if weights_fail(numbers):
        reading = f"{above}, or more: the weights' tail is too heavy to tell"
        return Line("log evidence", value, "do not use", reading)
    if gap <= _SMALL_GAP:
        reading = f"{above}: the guide is close to the posterior where it draws"
        return Line("log evidence", value, "good", reading)
    reading = f"{above}, the guide's divergence from the posterior: reweight its draws"
    return Line("log evidence", value, "usable with reweighting", reading)


def _k_hat(numbers: Diagnostics) -> Line:
    value = f"{numbers.k_hat:.2f}"
    if not numbers.k_hat_matters:
        return Line("k_hat", value, "good", "says nothing: the weights hardly vary")
    if numbers.k_hat < 0.5:
        return Line("k_hat", value, "good", "the weights have a finite variance")
    if weights_fail(numbers):
        reading = "the weights' tail is too heavy to correct the guide's draws"
        return Line("k_hat", value, "do not use", reading)
    reading = "the weights correct the guide's draws, if slowly"
    return Line("k_hat", value, "usable with reweighting", reading)


def _efficiency(numbers: Diagnostics) -> Line:
    value = f"{numbers.ess:.3f}"
    count = numbers.ess * numbers.draws
    reading = f"{numbers.draws} weighted draws count as {count:.0f}"
    verdict: Verdict = "do not use"
    if numbers.ess >= _GOOD_EFFICIENCY:
        verdict = "good"
    elif count >= _ENOUGH_DRAWS:
        verdict = "usable with reweighting"
    else:
        reading += f", fewer than {_ENOUGH_DRAWS}"
    return Line("ESS", value, verdict, reading)


def _variance(numbers: Diagnostics) -> Line:
    variance = numbers.var_log_w
    value = f"{variance:.2g}"
    if variance <= _SMALL_VARIANCE:
        return Line("var(log w)", value, "good", "the weights are nearly equal")
    # Many tiny weights make it large and do no harm: whether reweighting works, others say.
    reading = "the weights differ: k_hat and ESS say whether they can be used"
    return Line("var(log w)", value, "usable with reweighting", reading)
