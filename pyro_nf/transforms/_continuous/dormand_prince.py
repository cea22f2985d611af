"""One step of Dormand and Prince's method of fifth order, to be replayed with a graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# The nodes and weights of the stages: Dormand & Prince (1980), table 2, RK5(4)7M.
_STAGES: tuple[tuple[float, tuple[float, ...]], ...] = (
    (1 / 5, (1 / 5,)),
    (3 / 10, (3 / 40, 9 / 40)),
    (4 / 5, (44 / 45, -56 / 15, 32 / 9)),
    (8 / 9, (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729)),
    (1.0, (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656)),
)
_RESULT = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)

EVALUATIONS = len(_RESULT)


def dormand_prince_step(
    f: Callable[[Tensor, Tensor], Tensor], t: Tensor, state: Tensor, dt: Tensor
) -> Tensor:
    """The state after one step of size dt (negative: backwards), without an error estimate."""
    step = float(dt)
    slopes = [f(t, state)]
    for node, weights in _STAGES:
        slopes.append(f(t + node * dt, _combine(state, weights, slopes, step)))
    return _combine(state, _RESULT, slopes, step)


def _combine(
    state: Tensor, weights: tuple[float, ...], slopes: list[Tensor], step: float
) -> Tensor:
    total = state
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            total = torch.add(total, slope, alpha=weight * step)
    return total
