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


def dormand_prince_step(
    f: Callable[[Tensor, Tensor], Tensor], t: float, state: Tensor, dt: float
) -> Tensor:
    """The state after one step of size dt (negative: backwards), without an error estimate."""
    slopes = [f(state.new_full((), t), state)]
    for node, weights in _STAGES:
        stage = _combine(state, weights, slopes, dt)
        slopes.append(f(state.new_full((), t + node * dt), stage))
    return _combine(state, _RESULT, slopes, dt)


def _combine(state: Tensor, weights: tuple[float, ...], slopes: list[Tensor], dt: float) -> Tensor:
    total = torch.add(state, slopes[0], alpha=weights[0] * dt)
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        if weight:
            total.add_(slope, alpha=weight * dt)
    return total
