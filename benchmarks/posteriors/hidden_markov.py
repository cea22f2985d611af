"""A hidden Markov chain of two states with normal observations."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.posteriors._posterior import vector
from benchmarks.posteriors._priors import flat_positive


def hidden_markov(y: Tensor) -> None:
    """y_t ~ N(μ_{z_t}, 1), the states z summed out by the forward algorithm.

    The rows of the transition matrix are uniform on the simplex; 0 < μ₁ < μ₂ with μ₁ ~ N(3, 1) and
    μ₂ ~ N(10, 1). The first state has no distribution: each enters with weight one. Bounds that
    depend on another latent have no fixed bijection, so the second mean is the first plus a gap.
    """
    rows = pyro.sample("rows", dist.Dirichlet(y.new_ones(2, 2)).to_event(1))
    first = pyro.sample("first", flat_positive(y[0]))
    gap = pyro.sample("gap", flat_positive(y[0]))
    mu = torch.stack([first, first + gap], -1)  # (*particles, states)
    prior = dist.Normal(y.new_tensor([3.0, 10.0]), 1.0).to_event(1)
    pyro.factor("mu_prior", prior.log_prob(mu))
    pyro.factor("y", forward_algorithm(rows.log(), emissions(y, mu)))


def emissions(y: Tensor, mu: Tensor) -> Tensor:
    """The log density of each observation in each state: (*particles, time, states)."""
    return dist.Normal(mu[..., None, :], 1.0).log_prob(y[:, None])


def forward_algorithm(log_transitions: Tensor, log_emissions: Tensor) -> Tensor:
    """The log density of the observations, summed over all paths.

    Args:
        log_transitions: From the row's state to the column's, (*particles, states, states).
        log_emissions: Of each observation in each state, (*particles, time, states).

    Returns:
        The log densities, (*particles,).
    """
    first, *later = log_emissions.unbind(-2)
    paths = first  # log density of y_1 … y_t over the paths that end in each state
    for emission in later:
        paths = torch.logsumexp(paths[..., :, None] + log_transitions, -2) + emission
    return torch.logsumexp(paths, -1)


def arguments(record: dict[str, Any]) -> tuple[Tensor, ...]:
    """The observations."""
    return (vector(record["y"]),)


def columns(values: dict[str, Tensor]) -> Tensor:
    """Both rows of the transition matrix, then both means."""
    means = torch.stack([values["first"], values["first"] + values["gap"]], -1)
    return torch.cat([values["rows"].flatten(1), means], -1)
