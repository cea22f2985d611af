"""A mixture of two normal distributions with ordered means."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.posteriors._posterior import vector
from benchmarks.posteriors._priors import flat_ordered


def gaussian_mixture(y: Tensor) -> None:
    """y_i ~ θ N(μ₁, σ₁) + (1 − θ) N(μ₂, σ₂) with μ₁ < μ₂.

    μ_k ~ N(0, 2) where they are in order, σ_k ~ half-normal(2), θ ~ Beta(5, 5).
    """
    mu = pyro.sample("mu", flat_ordered(y[:2]))
    pyro.factor("mu_prior", dist.Normal(y.new_zeros(2), 2.0).to_event(1).log_prob(mu))
    sigma = pyro.sample("sigma", dist.HalfNormal(y.new_full((2,), 2.0)).to_event(1))
    theta = pyro.sample("theta", dist.Beta(y.new_tensor(5.0), 5.0))
    with pyro.plate("data", len(y)):
        # A third of the time of MixtureSameFamily, whose last dimension has length two.
        first = theta.log() + dist.Normal(mu[..., 0], sigma[..., 0]).log_prob(y)
        second = torch.log1p(-theta) + dist.Normal(mu[..., 1], sigma[..., 1]).log_prob(y)
        pyro.factor("y", torch.logaddexp(first, second))


def arguments(record: dict[str, Any]) -> tuple[Tensor, ...]:
    """The values."""
    return (vector(record["y"]),)
