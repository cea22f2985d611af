"""Importance resampling: draws of a guide, corrected by Pareto-smoothed weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_nf._checks import positive_int
from pyro_nf.infer._proposals import proposals
from pyro_nf.infer._psis import Diagnostics, diagnostics, psis
from pyro_nf.infer._seeding import seeded

_OWNER = "importance_resample"


@dataclass(frozen=True, eq=False)
class ImportanceResult:
    """Draws from a posterior by importance resampling, and whether they can be trusted.

    Attributes:
        samples: Value of each latent, of shape ``(num_samples, *site_shape)``, in random order.
        diagnostics: All numbers that the raw weights give.
        log_weights: Smoothed log weights of all draws, normalised to a sum of one.
    """

    samples: dict[str, Tensor]
    diagnostics: Diagnostics
    log_weights: Tensor

    @property
    def k_hat(self) -> float:
        """Shape of the weights' Pareto tail: below .7 the samples can be used."""
        return self.diagnostics.k_hat

    @property
    def ess(self) -> float:
        """Efficiency of the weights: the share of the draws that counts, in [0, 1]."""
        return self.diagnostics.ess

    @property
    def log_evidence(self) -> float:
        """Log of the mean weight, in nats."""
        return self.diagnostics.log_evidence

    @property
    def log_evidence_se(self) -> float:
        """Standard error of ``log_evidence``, by the delta method."""
        return self.diagnostics.log_evidence_se

    def __repr__(self) -> str:
        """The numbers, without the draws."""
        return (
            f"ImportanceResult(log_evidence={self.log_evidence:.3f} ± {self.log_evidence_se:.3f}, "
            f"k_hat={self.k_hat:.2f}, ess={self.ess:.3f}, draws={self.diagnostics.draws}, "
            f"non_finite={self.diagnostics.non_finite})"
        )


def importance_resample(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_draws: int = 10_000,
    num_samples: int = 1000,
    seed: int = 0,
    model_kwargs: Mapping[str, Any] | None = None,
) -> ImportanceResult:
    r"""Corrects a guide's draws towards the posterior by Pareto-smoothed importance weights.

    Draws :math:`\theta_n` from the guide weigh :math:`w_n = p(x, \theta_n) / q(\theta_n)`, the
    largest of which are replaced by quantiles of a Pareto distribution fitted to them. Samples are
    then chosen by weight, with replacement (systematic resampling). The mean of the raw weights
    estimates the evidence.

    Weights cannot correct what no draw has seen: a lost mode shows neither in ``k_hat`` nor in
    ``ess``; see :func:`~pyro_nf.infer.annealed_importance_sampling`.

    Cost: ``num_draws`` evaluations of model and guide, vectorised where they can be.

    Args:
        model: The model.
        guide: A fitted guide of any kind.
        *args: Their arguments.
        num_draws: Draws from the guide; ``k_hat`` needs about 10,000.
        num_samples: Samples to choose among them. As many as ``num_draws * ess`` can be all
            different.
        seed: Seed of all draws; the global generator is left as it was.
        model_kwargs: Keyword arguments of model and guide.

    Returns:
        The samples, and the evidence, k̂ and the efficiency of the weights.

    Raises:
        ValueError: If the model subsamples its data, no weight is finite, or a count is no
            positive integer.

    Warns:
        UserWarning: If k̂ is .7 or more (and the weights differ enough for that to matter).

    References:
        Pareto Smoothed Importance Sampling (Vehtari, Simpson, Gelman, Yao, Gabry, 2024),
        arXiv 1507.02646.

    Examples:
        >>> import torch, pyro
        >>> import pyro.distributions as dist
        >>> from pyro_nf import infer
        >>> from pyro_nf.infer.autoguide import AutoFlow
        >>> def model(y):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(z, 1.0), obs=y)
        >>> y = torch.tensor(0.5)
        >>> guide = AutoFlow(model, init_scale=0.8).setup(y)
        >>> result = infer.importance_resample(model, guide, y, num_draws=2000, num_samples=500)
        >>> exact = dist.Normal(0.0, 2**0.5).log_prob(y).item()
        >>> abs(result.log_evidence - exact) < 0.1, result.samples["z"].shape
        (True, torch.Size([500]))
    """
    positive_int(_OWNER, "num_draws", num_draws)
    positive_int(_OWNER, "num_samples", num_samples)
    draws = proposals(_OWNER, model, guide, args, model_kwargs, num_draws, seed)
    numbers = diagnostics(draws.log_p, draws.log_q)
    if numbers.non_finite == num_draws:
        raise ValueError(
            f"{_OWNER} got {num_draws} draws of which none has a finite weight: the model has "
            "zero density wherever the guide draws. Refit the guide, or check the supports."
        )
    log_weights, _ = psis(draws.log_weights)
    if not numbers.is_good:
        warnings.warn(
            f"{_OWNER}: k_hat is {numbers.k_hat:.2f}, and from .7 on weights cannot be trusted. "
            "Improve the guide: more steps, a larger flow, or another warm start.",
            stacklevel=2,
        )
    with seeded(seed):
        chosen = _resample(log_weights, num_samples)
    return ImportanceResult(
        samples={name: value[chosen] for name, value in draws.values.items()},
        diagnostics=numbers,
        log_weights=log_weights,
    )


def _resample(log_weights: Tensor, count: int) -> Tensor:
    """Systematic resampling: ``count`` indices in random order, each about its weight times."""
    weights = log_weights.exp()
    ends = weights.cumsum(0)
    grid = torch.arange(count).to(ends).add(torch.rand_like(ends[:1])) * ends[-1] / count
    # Rounding may put the last point past the end, where a weight of zero may lie.
    last = int(weights.nonzero()[-1])
    chosen = torch.searchsorted(ends, grid, right=True).clamp(max=last)
    return chosen[torch.randperm(count, device=chosen.device)]
