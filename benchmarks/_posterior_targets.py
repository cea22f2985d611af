"""Targets of guides with exact draws and exact log evidence, as Pyro models.

All but the eight schools are densities without data, so that their log evidence is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.posteriors import eight_schools
from benchmarks.posteriors._priors import flat

Exact = Callable[[int, torch.Generator], Tensor]
Values = dict[str, Tensor]


@dataclass(frozen=True)
class Target:
    """A model whose posterior is known.

    Attributes:
        model: The Pyro model.
        args: Its arguments.
        unconstrained: From draws, site name -> (n, *site_shape), to unconstrained rows (n, D).
        exact: ``exact(n, generator)`` draws n rows (n, D) of the posterior there, in float64.
        log_evidence: Its log evidence in nats.
    """

    model: Callable[..., None]
    args: tuple[Any, ...]
    unconstrained: Callable[[Values], Tensor]
    exact: Exact
    log_evidence: float = 0.0


def gauss(*, input_dim: int = 10, correlation: float = 0.95) -> Target:
    """Ten correlated normal coordinates, of standard deviations from .03 to 10."""
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(input_dim, dtype=torch.float64)
    correlations = correlation ** (index[:, None] - index).abs()
    spread = torch.logspace(-1.5, 1.0, input_dim, dtype=torch.float64)
    spread = spread[torch.randperm(input_dim, generator=generator)]
    mean = 3 * _normal(generator, input_dim)
    tril = torch.linalg.cholesky(correlations * spread[:, None] * spread)

    def model(mean: Tensor, tril: Tensor) -> None:
        pyro.sample("x", dist.MultivariateNormal(mean, scale_tril=tril))

    def exact(n: int, generator: torch.Generator) -> Tensor:
        return mean + _normal(generator, n, input_dim) @ tril.T

    return Target(model, (_default(mean), _default(tril)), lambda values: values["x"], exact)


def funnel(*, input_dim: int = 10) -> Target:
    """Neal's funnel: v ~ N(0, 3) and nine x ~ N(0, exp(v/2))."""

    def model() -> None:
        v = pyro.sample("v", dist.Normal(0.0, 3.0))
        with pyro.plate("coordinates", input_dim - 1):
            pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))

    def exact(n: int, generator: torch.Generator) -> Tensor:
        v = 3 * _normal(generator, n, 1)
        return torch.cat([v, (v / 2).exp() * _normal(generator, n, input_dim - 1)], -1)

    return Target(
        model, (), lambda values: torch.cat([values["v"][:, None], values["x"]], -1), exact
    )


def banana() -> Target:
    """A parabola: a ~ N(0, 10) and b ~ N(.03 (a² − 100), 1)."""

    def model() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 10.0))
        pyro.sample("b", dist.Normal(0.03 * (a.square() - 100), 1.0))

    def exact(n: int, generator: torch.Generator) -> Tensor:
        a, noise = _normal(generator, 2, n)
        return torch.stack([10 * a, 0.03 * (100 * a.square() - 100) + noise], -1)

    return Target(model, (), lambda values: torch.stack([values["a"], values["b"]], -1), exact)


def t2(*, input_dim: int = 5) -> Target:
    """Independent Student t coordinates of two degrees of freedom: no variance."""

    def model() -> None:
        pyro.sample("x", dist.StudentT(2.0, torch.zeros(input_dim), 1.0).to_event(1))

    def exact(n: int, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(n, input_dim, generator=generator, dtype=torch.float64)
        # χ² of two degrees of freedom is −2 log u, and t = N(0, 1) / √(χ² / 2).
        return _normal(generator, n, input_dim) / (-torch.log1p(-uniform)).sqrt()

    return Target(model, (), lambda values: values["x"], exact)


def two_modes(separation: float, *, input_dim: int = 5) -> Target:
    """Two equal normal modes of unit scale, ``separation`` apart along the first coordinate."""
    centers = torch.zeros(2, input_dim)
    centers[:, 0] = torch.tensor([-0.5, 0.5]) * separation

    def model(centers: Tensor) -> None:
        modes = dist.Normal(centers, 1.0).to_event(1)
        weights = dist.Categorical(torch.ones_like(centers[:, 0]))
        # A mixture's own support has no bijection, hence no autoguide takes it as a latent.
        x = pyro.sample("x", flat(centers[0]))
        pyro.factor("mixture", dist.MixtureSameFamily(weights, modes).log_prob(x))

    def exact(n: int, generator: torch.Generator) -> Tensor:
        which = torch.randint(2, (n,), generator=generator)
        return centers.double()[which] + _normal(generator, n, input_dim)

    return Target(model, (centers,), lambda values: values["x"], exact)


EFFECTS = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
ERRORS = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]


def eight() -> Target:
    """The eight schools, non-centred."""
    log_evidence, exact = _eight_schools()

    def unconstrained(values: Values) -> Tensor:
        both = [values["mu"], values["tau"].log()]
        return torch.cat([torch.stack(both, -1), values["theta_tilde"]], -1)

    args = torch.tensor(EFFECTS), torch.tensor(ERRORS)
    return Target(eight_schools.noncentered, args, unconstrained, exact, log_evidence)


def eight_centered() -> Target:
    """The eight schools, centred: a funnel that the data cut open."""
    log_evidence, exact_noncentered = _eight_schools()

    def unconstrained(values: Values) -> Tensor:
        both = [values["mu"], values["tau"].log()]
        return torch.cat([torch.stack(both, -1), values["theta"]], -1)

    def exact(n: int, generator: torch.Generator) -> Tensor:
        rows = exact_noncentered(n, generator)
        theta = rows[:, :1] + rows[:, 1:2].exp() * rows[:, 2:]
        return torch.cat([rows[:, :2], theta], -1)

    args = torch.tensor(EFFECTS), torch.tensor(ERRORS)
    return Target(eight_schools.centered, args, unconstrained, exact, log_evidence)


def _eight_schools() -> tuple[float, Exact]:
    """Log evidence and draws of (μ, log τ, θ̃).

    Given τ all else is normal, so one quadrature over log τ does it:

    1. y | τ: y_j ~ N(μ, v_j), v_j = σ_j² + τ², with μ ~ N(0, 5) integrated out;
    2. μ | τ, y is normal of precision P = 1/25 + Σ 1/v_j and mean m = Σ (y_j / v_j) / P;
    3. θ̃_j | μ, τ, y is normal of precision 1 + τ²/σ_j² and mean τ (y_j − μ) / σ_j² over it.
    """
    y = torch.tensor(EFFECTS, dtype=torch.float64)
    sigma = torch.tensor(ERRORS, dtype=torch.float64)

    def given(tau: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Variances v (n, 8), precision P (n,) and mean m (n,)."""
        variance = sigma.square() + tau[:, None].square()
        precision = 1 / 25 + (1 / variance).sum(-1)
        return variance, precision, (y / variance).sum(-1) / precision

    log_tau = torch.linspace(-20.0, 10.0, 30_001, dtype=torch.float64)
    variance, precision, mean = given(log_tau.exp())
    log_density = dist.HalfCauchy(sigma.new_tensor(5.0)).log_prob(log_tau.exp()) + log_tau
    log_density = log_density + dist.Normal(torch.zeros_like(y), variance.sqrt()).log_prob(y).sum(
        -1
    )
    log_density = log_density + (mean.square() * precision - (25 * precision).log()) / 2
    top = log_density.max()
    mass = torch.cumulative_trapezoid((log_density - top).exp(), log_tau)
    mass = torch.cat([mass.new_zeros(1), mass])
    log_evidence = float(top + mass[-1].log())

    def exact(n: int, generator: torch.Generator) -> Tensor:
        level = mass[-1] * torch.rand(n, generator=generator, dtype=torch.float64)
        right = torch.searchsorted(mass, level).clamp(1, len(mass) - 1)
        left = right - 1
        share = (level - mass[left]) / (mass[right] - mass[left])
        chosen = torch.lerp(log_tau[left], log_tau[right], share)
        tau = chosen.exp()
        _, precision, mean = given(tau)
        mu = mean + _normal(generator, n) / precision.sqrt()
        ratio = tau[:, None] / sigma  # (n, 8)
        theta_precision = 1 + ratio.square()
        theta = ratio * (y - mu[:, None]) / sigma / theta_precision
        theta = theta + _normal(generator, n, 8) / theta_precision.sqrt()
        return torch.cat([mu[:, None], chosen[:, None], theta], -1)

    return log_evidence, exact


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _default(value: Tensor) -> Tensor:
    return value.to(torch.get_default_dtype())


TARGETS: dict[str, Callable[[], Target]] = {
    "gauss": gauss,
    "eight": eight,
    "eight_centered": eight_centered,
    "funnel": funnel,
    "banana": banana,
    "t2": t2,
    "two_modes": lambda: two_modes(8.0),
}
