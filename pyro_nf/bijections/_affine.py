"""The maths of the affine map with a softly bounded scale, with its closed-form gradient.

With d = 1 + |a| / m the log-scale s = a / d has the slope 1 / d². Forward, y = x e^s + b;
inverse, x = (y - b) e^-s.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_nf.bijections._closed_form import Direction, Saved


class Bounds(NamedTuple):
    """Where the log-scale ends: above, and (a negative number) below."""

    upper: float
    lower: float


def evaluate(
    value: Tensor, params: Tensor, bounds: Bounds, direction: Direction
) -> tuple[Tensor, Tensor]:
    """The map in plain differentiable operations."""
    shift, raw = params.unbind(0)
    log_scale = raw / _softness(raw, bounds)
    if direction == "forward":
        return torch.addcmul(shift, value, log_scale.exp()), log_scale
    ladj = -log_scale
    return (value - shift) * ladj.exp(), ladj


def _softness(raw: Tensor, bounds: Bounds) -> Tensor:
    """The divisor 1 + |a| / m that keeps the log-scale within its bounds."""
    if bounds.upper == -bounds.lower:
        return torch.ones_like(raw).add_(raw.abs(), alpha=1 / bounds.upper)
    # One of the two terms is 0.
    return raw.clamp(min=0) / bounds.upper + raw.clamp(max=0) / bounds.lower + 1


def solve(
    value: Tensor, params: Tensor, bounds: Bounds, direction: Direction
) -> tuple[Tensor, Tensor, Saved]:
    """The map without a graph, with d, the scale and the value that the scale made."""
    shift, raw = params.unbind(0)
    softness = _softness(raw, bounds)
    ladj = raw / softness
    if direction == "inverse":
        ladj.neg_()
        scale = ladj.exp()
        scaled = (value - shift).mul_(scale)
        return scaled, ladj, (softness, scale, scaled)
    scale = ladj.exp()
    scaled = value * scale
    return scaled + shift, ladj, (softness, scale, scaled)


def solve_into(y: Tensor, params: Tensor, bounds: Bounds, x: Tensor, ladj: Tensor) -> None:
    """Writes the inverse and its log-derivative into ``x`` and ``ladj``."""
    shift, raw = params.unbind(0)
    torch.div(raw, _softness(raw, bounds), out=ladj).neg_()
    torch.sub(y, shift, out=x).mul_(ladj.exp())


def pull_back(
    saved: Saved, grad: Tensor, ladj_grad: Tensor, direction: Direction
) -> tuple[Tensor, Tensor]:
    """The gradients of the values and of shift and raw log-scale."""
    softness, scale, scaled = saved
    value_grad = grad * scale
    slope = softness.square().reciprocal_()
    log_scale_grad = (grad * scaled).add_(ladj_grad).mul_(slope)
    if direction == "forward":
        return value_grad, torch.stack([grad, log_scale_grad])
    return value_grad, torch.stack([value_grad, log_scale_grad]).neg_()
