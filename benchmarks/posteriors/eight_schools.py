"""Effects of coaching in eight schools (Rubin, 1981), centred and non-centred."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.posteriors._posterior import joined, vector


def centered(y: Tensor, sigma: Tensor) -> None:
    """μ ~ N(0, 5), τ ~ half-Cauchy(5), θ_j ~ N(μ, τ), y_j ~ N(θ_j, σ_j)."""
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(y.new_tensor(5.0)))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def noncentered(y: Tensor, sigma: Tensor) -> None:
    """The same with θ_j = μ + τ θ̃_j, θ̃_j ~ N(0, 1)."""
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(y.new_tensor(5.0)))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta_tilde", dist.Normal(y.new_tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(mu + tau * theta, sigma), obs=y)


def arguments(record: dict[str, Any]) -> tuple[Tensor, ...]:
    """The measured effects and their standard errors."""
    return vector(record["y"]), vector(record["sigma"])


def centered_columns(values: dict[str, Tensor]) -> Tensor:
    """θ, μ, τ from draws of the centred model."""
    return joined(values, "theta", "mu", "tau")


def noncentered_columns(values: dict[str, Tensor]) -> Tensor:
    """θ, μ, τ from draws of the non-centred model."""
    theta = values["mu"][:, None] + values["tau"][:, None] * values["theta_tilde"]
    return torch.cat([theta, joined(values, "mu", "tau")], -1)
