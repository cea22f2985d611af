"""The search for mass that a guide has lost, which its own draws cannot see."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from pyro_nf.infer._annealed import (
    AnnealedResult,
    LogDensity,
    annealed_importance_sampling,
)
from pyro_nf.infer._log_joint import LogJoint
from pyro_nf.infer._psis import Diagnostics
from pyro_nf.infer._report.base_space import BaseSpace
from pyro_nf.infer._report.card import Line

OPTIMA, ANNEALED = "lost modes: optima", "lost modes: annealing"

_INFLATION = 10.0
_CHAINS, _MANY_CHAINS, _TEMPERATURES = 1024, 4096, 300
# A lost fifth of the mass is an excess of log(1 / .8) = .22 nats.
_LEAST_EXCESS = 0.1
_STANDARD_ERRORS = 3.0
_ROUGH = 0.07
# At an optimum: how far the guide's density may be too low, in nats, and the mass there that
# matters, as a share of what the guide sees.
_MOST_EXCESS_AT_OPTIMUM = 4.0
_LEAST_SHARE = 0.05
_LARGEST_HESSIAN = 1000


@dataclass(frozen=True)
class Target:
    """A posterior in unconstrained space, in float64 where the model can.

    Attributes:
        log_density: The model's log joint density, ``(n, D) -> (n,)``.
        dtype: The dtype that it takes.
        points_alone: Whether the model can only run point by point.
    """

    log_density: LogJoint
    dtype: torch.dtype
    points_alone: bool

    @classmethod
    def of(cls, log_joint: LogJoint) -> Target:
        """Creates the widest form of a model's log density."""
        wide = log_joint.in_float64()
        dtype = log_joint.space.dtype if wide is log_joint else torch.float64
        return cls(wide, dtype, points_alone=log_joint.particles == "loop")

    def __call__(self, z: Tensor) -> Tensor:
        """Computes the log density of float64 rows."""
        return self.log_density(z.to(self.dtype)).double()


def unsearched(name: str, reason: str) -> Line:
    """Creates the line of a detector that could not look."""
    return Line(name, "–", "unknown", f"not looked for: {reason}")


def check_optima(
    target: Target, q: Distribution, optima: Sequence[Tensor], numbers: Diagnostics
) -> tuple[Line, bool | None]:
    r"""Looks whether the guide has the modes that the fit's starts ended in.

    One fires where the guide's density is far too low for its own evidence,
    :math:`\log p - \log q - \log Z > 4`, and where there is mass: by Laplace's approximation more
    than 5 % of Z. The second condition spares points of high density and next to no volume, such
    as the end of a funnel's neck, where no guide is accurate and none needs to be.

    Args:
        target: The posterior.
        q: The guide's distribution of unconstrained latents.
        optima: Points of shape ``(D,)``.
        numbers: What the guide's weights tell.

    Returns:
        The line, and whether it fires (None if it could not look).
    """
    points = torch.stack(list(optima))
    with torch.no_grad():
        log_p = target(points)
        log_q = q.log_prob(points.to(target.log_density.space.dtype)).double()
    excess = log_p - log_q - numbers.log_evidence  # (optima,)
    # Where a flow has no finite density (NaN), it does not have the optimum either.
    suspects = [i for i, nats in enumerate(excess.tolist()) if not nats <= _MOST_EXCESS_AT_OPTIMUM]
    if suspects and points.shape[-1] > _LARGEST_HESSIAN:
        return unsearched(OPTIMA, f"Hessians of more than {_LARGEST_HESSIAN} dimensions"), None
    shares = [_log_mass(target, points[i], float(log_p[i])) for i in suspects]
    most = max(shares, default=-math.inf) - numbers.log_evidence
    largest = float(excess.max())  # where a flow underflows it may be astronomical
    value = f"{largest:+.1f} nats" if largest < 1000 else "> 1000 nats"
    if most > math.log(_LEAST_SHARE):
        reading = f"an optimum with about {_percent(most)} of the guide's mass is not in the guide"
        return Line(OPTIMA, value, "do not use", reading), True
    reading = f"the guide has the optima of all {len(points)} starts"
    if suspects:
        reading += " that hold mass"
    return Line(OPTIMA, value, "good", reading), False


def _log_mass(target: Target, point: Tensor, log_p: float) -> float:
    """Laplace's approximation to the log of the mass around an optimum; -inf where it is none."""
    with torch.enable_grad():
        hessian = torch.autograd.functional.hessian(
            lambda z: -target(z[None]).squeeze(0), point.detach()
        )
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if bool(failed) or not bool(factor.isfinite().all()):
        return -math.inf  # a saddle, or a slope that goes on for ever
    half_log_det = float(factor.diagonal().log().sum())
    return log_p + 0.5 * len(point) * math.log(2 * math.pi) - half_log_det


def _percent(log_share: float) -> str:
    """A share in words that stay short when Laplace's approximation explodes."""
    return (
        f"{100 * math.exp(log_share):.0f} %" if log_share < math.log(10) else "far more than all"
    )


def search_by_annealing(
    target: Target, draws: Tensor, base: BaseSpace | None, numbers: Diagnostics, seed: int
) -> tuple[Line, bool | None, AnnealedResult]:
    """Compares the guide's log evidence with one from chains that start all around the guide.

    The chains start at N(mean, (10 sd)²) of each latent. Where they cannot tell or are rough, as
    in posteriors that are narrow across the axes, others start so along the principal axes of
    the guide, and then in its base space, where a curved posterior that the guide fits is simple.

    Args:
        target: The posterior.
        draws: Draws of the guide in unconstrained space, ``(n, D)``.
        base: The guide's base space, if it has one.
        numbers: What the guide's weights tell.
        seed: Seed of the chains.

    Returns:
        The line, whether it fires (None if it cannot tell), and the chains.
    """
    results = []
    for density, points in _searches(target, draws, base):
        result = _anneal(density, points, _CHAINS, seed)
        line, fires = _compare(result, numbers)
        if not fires and result.log_evidence - numbers.log_evidence > _LEAST_EXCESS:
            # Suspicious, but within the error: more chains are to say.
            result = _anneal(density, points, _MANY_CHAINS, seed + 1)
            line, fires = _compare(result, numbers)
        if fires:
            return line, fires, result
        results.append((fires is None, result.log_evidence_se, line, result))
        if fires is not None and result.log_evidence_se <= _ROUGH:
            break
    cannot_tell, _, line, result = min(results, key=lambda found: found[:2])
    return line, None if cannot_tell else False, result


def _searches(
    target: Target, draws: Tensor, base: BaseSpace | None
) -> Iterator[tuple[LogDensity, Tensor]]:
    """Densities of the posterior in different coordinates, with the guide's draws there."""
    yield target, draws
    for space in (BaseSpace.of_draws(draws), base):
        if space is not None:
            yield partial(space.pull_back, target), space.draws


def _anneal(log_density: LogDensity, draws: Tensor, chains: int, seed: int) -> AnnealedResult:
    """Annealed importance sampling from the inflated distribution of the draws."""
    draws = draws[draws.isfinite().all(-1)].double()
    spread = _INFLATION * draws.std(0).clamp(min=1e-6)
    return annealed_importance_sampling(
        log_density,
        Independent(Normal(draws.mean(0), spread, validate_args=False), 1),
        num_chains=chains,
        num_temperatures=_TEMPERATURES,
        seed=seed,
    )


def _compare(result: AnnealedResult, numbers: Diagnostics) -> tuple[Line, bool | None]:
    """The line on the chains' log evidence, and whether it fires."""
    excess = result.log_evidence - numbers.log_evidence
    error = math.hypot(result.log_evidence_se, numbers.log_evidence_se)
    visible = max(_LEAST_EXCESS, _STANDARD_ERRORS * error)
    value = f"{excess:+.3f} ± {error:.3f}"
    if excess > visible:
        reading = f"chains from all around find more mass: the guide lost {_share(excess)} of it"
        return Line(ANNEALED, value, "do not use", reading), True
    if excess < -max(1.0, _STANDARD_ERRORS * error):
        reading = "the chains themselves missed mass that the guide has: they cannot tell"
        return Line(ANNEALED, value, "unknown", reading), None
    if visible > math.log(2):
        reading = f"too rough to tell: modes of less than {_share(visible)} of the mass are unseen"
        return Line(ANNEALED, value, "unknown", reading), None
    reading = (
        "chains from all around find no more mass; modes of less than "
        f"{_share(visible)} of it stay unseen"
    )
    return Line(ANNEALED, value, "good", reading), False


def _share(excess: float) -> str:
    """The share of the mass that is missing from an evidence too low by so many nats."""
    return f"about {-100 * math.expm1(-excess):.0f} %"
