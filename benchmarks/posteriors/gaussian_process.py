"""Regression by a Gaussian process with uncertain length, amplitude and noise."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.posteriors._posterior import vector


def gaussian_process(x: Tensor, y: Tensor) -> None:
    """A normal y ~ N(0, K) with K = α² exp(−(x − x′)² / 2ρ²) + σ I; here σ is a variance.

    ρ ~ Gamma(25, 4), α ~ half-normal(2), σ ~ half-normal(1).
    """
    rho = pyro.sample("rho", dist.Gamma(x.new_tensor(25.0), 4.0))
    alpha = pyro.sample("alpha", dist.HalfNormal(x.new_tensor(2.0)))
    sigma = pyro.sample("sigma", dist.HalfNormal(x.new_tensor(1.0)))
    rho, alpha, sigma = (value[..., None, None] for value in (rho, alpha, sigma))
    square = (x[:, None] - x).square()  # (points, points)
    kernel = alpha.square() * torch.exp(-square / (2 * rho.square()))
    covariance = kernel + sigma * torch.eye(len(x)).to(x)
    pyro.sample("y", dist.MultivariateNormal(torch.zeros_like(y), covariance), obs=y)


def arguments(record: dict[str, Any]) -> tuple[Tensor, ...]:
    """The places and the values."""
    return vector(record["x"]), vector(record["y"])
