"""Annealed importance sampling on densities of unconstrained rows, with vectorised HMC moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_nf._checks import positive_int
from pyro_nf.infer._chains import Chains
from pyro_nf.infer._psis import evidence
from pyro_nf.infer._seeding import seeded
from pyro_nf.infer._validation import without_validation

LogDensity = Callable[[Tensor], Tensor]

# The pilot steps as far as leaves this share of its chains effective.
_PILOT_EFFICIENCY = 0.7
_PILOT_STEPS = 60
_MOST_PILOT_CHAINS = 128


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnealedResult:
    r"""Chains that were led from a start distribution to a target, and their weights.

    Attributes:
        log_evidence: Logarithm of the mean weight: the target's log integral in nats.
        log_evidence_se: Its standard error, by the delta method.
        ess: Efficiency :math:`(\sum w)^2 / (N \sum w^2)` of the weights, in (0, 1].
        draws: The chains' last states, shape ``(num_chains, D)``; weigh them by ``log_weights``.
        log_weights: Shape ``(num_chains,)``; minus infinity where a density was not finite.
        acceptance: Mean acceptance probability of the moves.
        temperatures: The inverse temperatures from 0 to 1, shape ``(num_temperatures + 1,)``.
        samples: Of a model: ``draws`` as values of its latents, ``(num_chains, *site_shape)``.
    """

    log_evidence: float
    log_evidence_se: float
    ess: float
    draws: Tensor
    log_weights: Tensor
    acceptance: float
    temperatures: Tensor
    samples: dict[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The numbers, without the chains."""
        return (
            f"AnnealedResult(log_evidence={self.log_evidence:.3f} ± {self.log_evidence_se:.3f}, "
            f"ess={self.ess:.3f}, acceptance={self.acceptance:.2f}, chains={len(self.draws)})"
        )


def annealed_importance_sampling(
    log_density: LogDensity,
    start: Distribution,
    *,
    scale: Tensor | None = None,
    num_chains: int = 512,
    num_temperatures: int = 300,
    leapfrog_steps: int = 3,
    seed: int = 0,
) -> AnnealedResult:
    r"""Estimates the integral of a density by chains that start at another distribution.

    From draws of the start :math:`r`, each chain passes through the densities

    .. math:: \pi_\beta \propto r^{1-\beta} p^\beta, \qquad 0 = \beta_0 < \dots < \beta_K = 1,

    by a move of Hamiltonian Monte Carlo at each, and collects the weight
    :math:`\prod_k (p(x_k) / r(x_k))^{\beta_{k+1} - \beta_k}`, whose mean estimates
    :math:`\int p`. A pilot of at most 128 chains, resampled on the way, first chooses the
    temperatures: by bisection on the efficiency of its weights, then so that all K steps cost the
    weights alike. Step sizes follow the acceptance towards .7 and vary from chain to chain.

    Regions that no chain finds are missing from the estimate, so its error is mostly downwards: a
    narrow neck behind a wide start, or many dimensions at too few temperatures. ``ess`` falls
    with the second.

    Cost: at most ``leapfrog_steps * (num_temperatures + 60)`` gradients of ``log_density``, each
    for all chains at once.

    Args:
        log_density: Log of the target, unnormalised, from float64 rows ``(n, D)`` to ``(n,)``,
            differentiable; what it returns that is not finite counts as density zero.
        start: Distribution over vectors of length D that can be sampled and scored in float64.
        scale: Lengths in which the moves are measured: D standard deviations, or a lower
            triangular ``(D, D)`` factor of a covariance; None for those of ``start``.
        num_chains: Chains; they are independent, given the temperatures.
        num_temperatures: Number K of steps between the start and the target.
        leapfrog_steps: Steps of each Hamiltonian trajectory.
        seed: Seed of all draws, those of ``start`` included; the global generator is left as
            it was.

    Returns:
        The log evidence and its standard error, and the weighted chains.

    Raises:
        ValueError: If a number is not positive, or the target is not finite at any draw of
            ``start``.

    References:
        Annealed Importance Sampling (Neal, 1998), arXiv physics/9803008.
        Toward Automatic Model Comparison: an Adaptive Sequential Monte Carlo Approach (Zhou,
        Johansen, Aston, 2016), arXiv 1303.3123: the conditional efficiency.

    Examples:
        >>> import torch
        >>> wide = torch.distributions.Normal(torch.zeros(2).double(), 5.0)
        >>> def log_density(x):  # integrates to 2 pi
        ...     return -x.square().sum(-1) / 2
        >>> result = annealed_importance_sampling(
        ...     log_density,
        ...     torch.distributions.Independent(wide, 1),
        ...     num_chains=100,
        ...     num_temperatures=30,
        ... )
        >>> result.draws.shape, abs(result.log_evidence - 1.838) < 0.3
        (torch.Size([100, 2]), True)
    """
    owner = "annealed_importance_sampling"
    positive_int(owner, "num_chains", num_chains)
    positive_int(owner, "num_temperatures", num_temperatures)
    positive_int(owner, "leapfrog_steps", leapfrog_steps)
    with seeded(seed), without_validation():  # HMC asks far out, where parameters overflow
        pilot = Chains(log_density, start, scale, min(num_chains, _MOST_PILOT_CHAINS))
        if not bool(pilot.alive.any()):
            raise ValueError(
                f"{owner} found no finite value of the target at {pilot.count} draws of the "
                "start. Start where the model has a density, or narrow the start."
            )
        temperatures = _temperatures(pilot, num_temperatures, leapfrog_steps)
        chains = Chains(log_density, start, scale, num_chains)
        log_weights = chains.log_target.new_zeros(num_chains)
        acceptance = 0.0
        steps = temperatures.tolist()
        for before, beta in zip(steps[:-1], steps[1:], strict=True):
            log_weights = log_weights + (beta - before) * chains.log_ratio
            acceptance += chains.move(beta, leapfrog_steps) / num_temperatures
    log_evidence, standard_error, efficiency = evidence(log_weights)
    return AnnealedResult(
        log_evidence=log_evidence,
        log_evidence_se=standard_error,
        ess=efficiency,
        draws=chains.positions,
        log_weights=log_weights,
        acceptance=acceptance,
        temperatures=temperatures,
    )


def _temperatures(pilot: Chains, count: int, leapfrog_steps: int) -> Tensor:
    """Chooses ``count`` steps from 0 to 1 that lower the efficiency of the weights alike.

    The pilot takes long steps, each so far that the conditional efficiency falls to a fixed
    value, and its chains are resampled after each. Between its temperatures the cost is taken to
    grow evenly: as the square root of the efficiency's logarithm, the sd of the increments.
    """
    betas, lengths = [0.0], [0.0]
    while betas[-1] < 1:
        beta = 1.0
        if len(betas) < _PILOT_STEPS:
            beta = _next_temperature(pilot.log_ratio, betas[-1])
        increments = (beta - betas[-1]) * pilot.log_ratio
        cost = -math.log(max(evidence(increments)[2], 1e-300))
        betas.append(beta)
        lengths.append(lengths[-1] + max(math.sqrt(max(cost, 0.0)), 1e-6))
        pilot.resample(increments)
        pilot.move(beta, leapfrog_steps)
    even = torch.linspace(0, lengths[-1], count + 1, dtype=torch.float64)
    return _interpolate(even, lengths, betas)


def _next_temperature(log_ratio: Tensor, beta: float) -> float:
    """The largest step at which the chains, equally weighted now, keep their efficiency."""
    log_ratio = log_ratio[log_ratio.isfinite()]

    def keeps(step: float) -> bool:
        return evidence(step * log_ratio)[2] >= _PILOT_EFFICIENCY

    if len(log_ratio) == 0 or keeps(1 - beta):
        return 1.0
    low, high = -60.0, math.log(1 - beta)  # the logarithm of the step
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(math.exp(middle)) else (low, middle)
    return min(beta + math.exp(low), 1.0)


def _interpolate(wanted: Tensor, lengths: list[float], betas: list[float]) -> Tensor:
    """Temperatures at the wanted lengths, linear between the pilot's; the ends are 0 and 1."""
    x = torch.tensor(lengths, dtype=torch.float64)
    y = torch.tensor(betas, dtype=torch.float64)
    right = torch.searchsorted(x, wanted).clamp(1, len(x) - 1)
    share = ((wanted - x[right - 1]) / (x[right] - x[right - 1])).clamp(0, 1)
    result = y[right - 1] + share * (y[right] - y[right - 1])
    result[0], result[-1] = 0.0, 1.0
    return result
