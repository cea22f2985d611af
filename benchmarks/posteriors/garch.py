"""A GARCH(1, 1) model of a series' changing variance."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.posteriors._posterior import vector
from benchmarks.posteriors._priors import flat, flat_positive


def garch(y: Tensor, first_scale: Tensor) -> None:
    """y_t ~ N(μ, σ_t) with σ_t² = α₀ + α₁ (y_{t−1} − μ)² + β₁ σ_{t−1}².

    All priors are flat: μ on the line, α₀ above zero, α₁ in (0, 1) and β₁ in (0, 1 − α₁). A bound
    that depends on another latent has no fixed bijection, so β₁ = b (1 − α₁) with b in (0, 1); the
    factor is the derivative of β₁ by b.
    """
    mu = pyro.sample("mu", flat(y[0]))
    alpha0 = pyro.sample("alpha0", flat_positive(y[0]))
    alpha1 = pyro.sample("alpha1", dist.Uniform(torch.zeros_like(y[0]), 1.0))
    b = pyro.sample("b", dist.Uniform(torch.zeros_like(y[0]), 1.0))
    beta1 = b * (1 - alpha1)
    pyro.factor("flat_beta1", torch.log1p(-alpha1))
    square = (y[:-1] - mu[..., None]).square()  # (*particles, time - 1)
    shocks = alpha0[..., None] + alpha1[..., None] * square
    variances = [first_scale.square().expand(mu.shape)]
    for shock in shocks.unbind(-1):
        variances.append(torch.addcmul(shock, beta1, variances[-1]))
    scale = torch.stack(variances, -1).sqrt()
    pyro.sample("y", dist.Normal(mu[..., None], scale).to_event(1), obs=y)


def arguments(record: dict[str, Any]) -> tuple[Tensor, ...]:
    """The series and its given first standard deviation."""
    return vector(record["y"]), vector(record["sigma1"])


def columns(values: dict[str, Tensor]) -> Tensor:
    """μ, α₀, α₁, β₁."""
    beta1 = values["b"] * (1 - values["alpha1"])
    return torch.stack([values["mu"], values["alpha0"], values["alpha1"], beta1], -1)
