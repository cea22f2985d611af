"""Populations of hares and lynxes by the Lotka-Volterra equations."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.posteriors._posterior import joined, vector
from benchmarks.posteriors._priors import sample_positive

RATES = ("alpha", "beta", "gamma", "delta")


def lotka_volterra(first: Tensor, y: Tensor) -> None:
    """u′ = (α − βv) u, v′ = (−γ + δu) v, both seen through log-normal noise of scales σ.

    α, γ ~ N(1, .5) and β, δ ~ N(.05, .05) above zero, σ ~ LogNormal(−1, 1), the populations at
    time zero ~ LogNormal(log 10, 1).

    Args:
        first: The populations seen at time zero, shape (2,).
        y: Those seen at the times 1, 2, ..., shape (times, 2).
    """
    alpha = sample_positive("alpha", dist.Normal(y.new_tensor(1.0), 0.5))
    beta = sample_positive("beta", dist.Normal(y.new_tensor(0.05), 0.05))
    gamma = sample_positive("gamma", dist.Normal(y.new_tensor(1.0), 0.5))
    delta = sample_positive("delta", dist.Normal(y.new_tensor(0.05), 0.05))
    start = dist.LogNormal(torch.full_like(first, math.log(10.0)), 1.0).to_event(1)
    initial = pyro.sample("initial", start)
    sigma = pyro.sample("sigma", dist.LogNormal(-torch.ones_like(first), 1.0).to_event(1))
    growth = torch.stack([alpha, -gamma], -1)
    effect = torch.stack([-beta, delta], -1)
    path = log_populations(initial.log(), growth, effect, times=len(y))
    pyro.sample("first", dist.LogNormal(initial.log(), sigma).to_event(1), obs=first)
    pyro.sample("y", dist.LogNormal(path, sigma[..., None, :]).to_event(2), obs=y)


def log_populations(
    start: Tensor, growth: Tensor, effect: Tensor, *, times: int, steps: int = 10
) -> Tensor:
    """Solves the equations of the logarithms by Runge-Kutta's classical method.

    The logarithms s keep the populations positive: s′ = growth + effect · exp(the other s).

    Args:
        start: The logarithms at time zero, (*particles, 2).
        growth: Each species' rate by itself, (*particles, 2).
        effect: The other species' effect on it, (*particles, 2).
        times: How many units of time to solve for.
        steps: Steps for each unit of time.

    Returns:
        The logarithms at the times 1, ..., times: (*particles, times, 2).
    """

    def slope(s: Tensor) -> Tensor:
        return torch.addcmul(growth, effect, s.flip(-1).exp())

    s, step, path = start, 1 / steps, []
    for _ in range(times):
        for _ in range(steps):
            k1 = slope(s)
            k2 = slope(torch.add(s, k1, alpha=step / 2))
            k3 = slope(torch.add(s, k2, alpha=step / 2))
            k4 = slope(torch.add(s, k3, alpha=step))
            mean = torch.add(k1 + k4, k2 + k3, alpha=2)
            s = torch.add(s, mean, alpha=step / 6)
        path.append(s)
    return torch.stack(path, -2)


def arguments(record: dict[str, Any]) -> tuple[Tensor, ...]:
    """The first counts, then the counts of the years after."""
    return vector(record["y_init"]), vector(record["y"])


def columns(values: dict[str, Tensor]) -> Tensor:
    """α, β, γ, δ, the populations at time zero, σ."""
    return joined(values, *RATES, "initial", "sigma")
