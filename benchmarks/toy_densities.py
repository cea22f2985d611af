"""Two-dimensional toy densities with samplers and exact log densities, in float64.

The definitions are those of FFJORD (Grathwohl et al., 2019, arXiv:1810.01367). Where a density is
a curve blurred by noise, its log density is a quadrature over the curve, so the entropy, which no
model's test loss can beat on average, is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


class Toy(NamedTuple):
    """A density: ``sample(n, generator) -> (n, 2)`` and ``log_prob((n, 2)) -> (n,)``."""

    sample: Callable[[int, torch.Generator], Tensor]
    log_prob: Callable[[Tensor], Tensor]


def _uniform(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator, dtype=torch.float64)


def _normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=generator, dtype=torch.float64)


def _choice(n: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(count, (n,), generator=generator)


def _polar(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], -1)


def _blurred_points(centres: Tensor, scale: float) -> Callable[[Tensor], Tensor]:
    """The log density of equally weighted points under isotropic normal noise."""

    def log_prob(x: Tensor) -> Tensor:
        parts = []
        for rows in x.split(4000):
            square = torch.cdist(rows, centres).square()
            parts.append(torch.logsumexp(-square / (2 * scale**2), -1))
        return torch.cat(parts) - math.log(len(centres)) - LOG_2PI - 2 * math.log(scale)

    return log_prob


def _eight_gaussians() -> Toy:
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    centres, scale = 4 * _polar(angles) / 1.414, 0.5 / 1.414

    def sample(n: int, generator: torch.Generator) -> Tensor:
        return centres[_choice(n, 8, generator)] + scale * _normal(n, generator)

    return Toy(sample, _blurred_points(centres, scale))


def _moons(points: int = 2000) -> Toy:
    def curve(t: Tensor, lower: Tensor) -> Tensor:
        upper_moon = _polar(t)
        lower_moon = torch.stack([1 - t.cos(), 0.5 - t.sin()], -1)
        return torch.where(lower[:, None], lower_moon, upper_moon)

    shift, scale = torch.tensor([-1.0, -0.2], dtype=torch.float64), 0.2
    t = (torch.arange(points, dtype=torch.float64) + 0.5) / points * math.pi
    whole = torch.cat([curve(t, torch.full((points,), moon)) for moon in (False, True)])

    def sample(n: int, generator: torch.Generator) -> Tensor:
        t = math.pi * _uniform(n, generator)
        lower = _choice(n, 2, generator) == 1
        return 2 * curve(t, lower) + shift + scale * _normal(n, generator)

    return Toy(sample, _blurred_points(2 * whole + shift, scale))


def _circles(radii: list[float], scale: float) -> Toy:
    r = torch.tensor(radii, dtype=torch.float64)

    def sample(n: int, generator: torch.Generator) -> Tensor:
        radius = r[_choice(n, len(radii), generator)][:, None]
        on_circle = radius * _polar(2 * math.pi * _uniform(n, generator))
        return on_circle + scale * _normal(n, generator)

    def log_prob(x: Tensor) -> Tensor:
        # A circle blurred by noise is a Bessel function of the radius (i0e: scaled by e^-z).
        norm = x.norm(dim=-1, keepdim=True)
        terms = -((norm - r) ** 2) / (2 * scale**2) + torch.special.i0e(norm * r / scale**2).log()
        return torch.logsumexp(terms, -1) - math.log(len(radii)) - LOG_2PI - 2 * math.log(scale)

    return Toy(sample, log_prob)


def _two_spirals(points: int = 3000) -> Toy:
    def curve(u: Tensor) -> Tensor:
        n = u.sqrt() * 3 * math.pi
        return torch.stack([-n.cos() * n, n.sin() * n], -1) / 3

    scale, side = 0.1, 1 / 6
    centres = curve((torch.arange(points, dtype=torch.float64) + 0.5) / points)

    def sample(n: int, generator: torch.Generator) -> Tensor:
        square = side * torch.rand(n, 2, generator=generator, dtype=torch.float64)
        sign = 1.0 - 2.0 * _choice(n, 2, generator)[:, None]
        arm = sign * (curve(_uniform(n, generator)) + square)
        return arm + scale * _normal(n, generator)

    def log_prob(x: Tensor) -> Tensor:
        parts = []
        for rows in x.split(2000):
            density = torch.zeros(len(rows), dtype=torch.float64)
            for sign in (1.0, -1.0):
                d = sign * rows[:, None] - centres
                box = torch.special.ndtr(d / scale) - torch.special.ndtr((d - side) / scale)
                density = density + (box / side).prod(-1).mean(-1) / 2
            parts.append(density.log())
        return torch.cat(parts)

    return Toy(sample, log_prob)


def _checkerboard() -> Toy:
    def sample(n: int, generator: torch.Generator) -> Tensor:
        x1 = 4 * _uniform(n, generator) - 2
        x2 = _uniform(n, generator) - 2 * _choice(n, 2, generator) + x1.floor() % 2
        return 2 * torch.stack([x1, x2], -1)

    def log_prob(x: Tensor) -> Tensor:
        dark = (x / 2).floor().sum(-1) % 2 == 0
        inside = (x.abs() < 4).all(-1) & dark
        return torch.where(inside, x.new_tensor(-math.log(32.0)), -math.inf)

    return Toy(sample, log_prob)


TOYS: dict[str, Toy] = {
    "moons": _moons(),
    "circles": _circles([3.0, 1.5], 0.24),
    "8gaussians": _eight_gaussians(),
    "2spirals": _two_spirals(),
    "checkerboard": _checkerboard(),
    "rings": _circles([3.0, 2.25, 1.5, 0.75], 0.08),
}
