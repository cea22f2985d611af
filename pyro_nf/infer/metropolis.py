"""Independence Metropolis-Hastings: chains whose proposals are a guide's draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_nf._checks import non_negative_int, positive_int
from pyro_nf.infer._proposals import proposals
from pyro_nf.infer._seeding import seeded

_OWNER = "independence_metropolis"


@dataclass(frozen=True, eq=False)
class MetropolisResult:
    """Markov chains that have the posterior as their stationary distribution.

    Attributes:
        samples: Value of each latent, of shape ``(num_chains, num_samples, *site_shape)``.
        acceptance: Share of the proposals accepted after the warm-up.
        longest_stay: Most draws in a row that one chain spent at one state after the warm-up: a
            stay of a large part of the chain tells of a tail that the guide lacks.
    """

    samples: dict[str, Tensor]
    acceptance: float
    longest_stay: int

    def __repr__(self) -> str:
        """The numbers, without the draws."""
        sites = ", ".join(f"{name}: {tuple(v.shape)}" for name, v in self.samples.items())
        return (
            f"MetropolisResult(acceptance={self.acceptance:.3f}, "
            f"longest_stay={self.longest_stay}, samples={{{sites}}})"
        )


def independence_metropolis(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 1000,
    num_chains: int = 4,
    warmup: int = 100,
    seed: int = 0,
    model_kwargs: Mapping[str, Any] | None = None,
) -> MetropolisResult:
    r"""Draws from the posterior by Metropolis-Hastings with the guide's draws as proposals.

    A proposal :math:`\theta'` replaces the state :math:`\theta` with probability
    :math:`\min(1, w(\theta') / w(\theta))`, where :math:`w = p(x, \theta) / q(\theta)`. Unlike
    resampled draws the chains are exact in the limit, and what the guide gets wrong shows as
    rejections. Chains mix geometrically only where w is bounded; a guide without the posterior's
    tails leaves them stuck there, and a mode that the guide never draws stays unseen.

    Cost: ``num_chains * (warmup + num_samples + 1)`` evaluations of model and guide, all at once
    where they can be; the chains themselves then take no evaluation.

    Args:
        model: The model.
        guide: A fitted guide of any kind.
        *args: Their arguments.
        num_samples: Draws to keep of each chain.
        num_chains: Independent chains.
        warmup: Draws of each chain to drop first.
        seed: Seed of all draws; the global generator is left as it was.
        model_kwargs: Keyword arguments of model and guide.

    Returns:
        The draws by chain, the acceptance rate and the longest stay.

    Raises:
        ValueError: If the model subsamples its data, a chain never meets a finite weight in its
            warm-up, or a count is out of range.

    References:
        Markov Chains for Exploring Posterior Distributions (Tierney, 1994).

    Examples:
        >>> import torch, pyro
        >>> import pyro.distributions as dist
        >>> from pyro_nf import infer
        >>> from pyro_nf.infer.autoguide import AutoFlow
        >>> def model(y):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(z, 1.0), obs=y)
        >>> y = torch.tensor(0.5)
        >>> guide = AutoFlow(model, init_scale=1.0).setup(y)
        >>> result = infer.independence_metropolis(model, guide, y, num_samples=200)
        >>> result.samples["z"].shape, result.acceptance > 0.5
        (torch.Size([4, 200]), True)
    """
    positive_int(_OWNER, "num_samples", num_samples)
    positive_int(_OWNER, "num_chains", num_chains)
    non_negative_int(_OWNER, "warmup", warmup)
    length = warmup + num_samples + 1
    draws = proposals(_OWNER, model, guide, args, model_kwargs, num_chains * length, seed)
    with seeded(seed):
        thresholds = torch.rand(length, num_chains, dtype=torch.float64, device="cpu").log()
    # The scan is a long chain of short steps, which a CPU takes faster than an accelerator.
    log_weights = draws.log_weights.double().cpu().reshape(length, num_chains)
    states = accepted_states(log_weights, thresholds)  # (length, chains)
    kept = states[warmup + 1 :]
    at = kept * num_chains + torch.arange(num_chains)
    if not bool(log_weights.flatten()[at].isfinite().all()):
        raise ValueError(
            f"{_OWNER} met no proposal with a finite weight in {warmup + 1} draws of a chain. "
            "Refit the guide, check the model's supports, or raise warmup."
        )
    moved = states[warmup + 1 :] != states[warmup:-1]
    index = at.T.flatten()
    return MetropolisResult(
        samples={
            name: value[index.to(value.device)].reshape(num_chains, num_samples, *value.shape[1:])
            for name, value in draws.values.items()
        },
        acceptance=float(moved.double().mean()),
        longest_stay=_longest_stay(moved),
    )


def accepted_states(log_weights: Tensor, thresholds: Tensor) -> Tensor:
    """Scans proposals: which of them each chain is at after each step.

    Args:
        log_weights: Log weights of the proposals, ``(steps, chains)``; not finite is weight zero.
        thresholds: Logarithms of uniform draws, of the same shape; the first row is unused.

    Returns:
        Row of the proposal at which each chain is, ``(steps, chains)``; the first row is 0.
    """
    log_weights = torch.where(log_weights.isfinite(), log_weights, -math.inf)
    state = torch.zeros(log_weights.shape[1], dtype=torch.long)
    current = log_weights[0]
    states = [state]
    for step in range(1, len(log_weights)):
        proposed = log_weights[step]
        accept = thresholds[step] < proposed - current  # false for NaN, of two weights of zero
        current = torch.where(accept, proposed, current)
        state = torch.where(accept, step, state)
        states.append(state)
    return torch.stack(states)


def _longest_stay(moved: Tensor) -> int:
    """The longest run of draws at one state, given ``(draws, chains)`` of whether it changed."""
    longest = run = torch.ones(moved.shape[1], dtype=torch.long)
    for row in moved[1:]:
        run = torch.where(row, 1, run + 1)
        longest = torch.maximum(longest, run)
    return int(longest.max())
