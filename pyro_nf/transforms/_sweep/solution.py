"""The walk without a graph, in memory allocated once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_nf.bijections._base import ScalarBijection
from pyro_nf.bijections._closed_form import is_closed_form
from pyro_nf.nn._features import encode
from pyro_nf.transforms._sweep.walk import Plan


class Solution(NamedTuple):
    """What a walk finds.

    Attributes:
        x: The inputs, ``(D, N)``.
        ladj: log|dx/dy| of each, ``(D, N)``.
        params: The parameters of each input, ``(D * P, N)``.
        sources: What each layer reads, first the features of x.
    """

    x: Tensor
    ladj: Tensor
    params: Tensor
    sources: list[Tensor]


def solve(plan: Plan, y: Tensor, weights: Sequence[Tensor], shifts: Sequence[Tensor]) -> Solution:
    """Solves for x, input by input; the arguments are those of :func:`walk`.

    Every row starts as its shift and becomes what its layer makes of it. A small step's time goes
    to the calls, not to the arithmetic: hence views made in bulk and no new tensors.
    """
    x, ladj = torch.empty_like(y), torch.empty_like(y)
    *hidden, params = (s.clone(memory_format=torch.contiguous_format) for s in shifts)
    periodic = plan.features == "periodic"
    read = y.new_empty(2 * y.shape[0], y.shape[1]) if periodic else x
    sources = [read, *hidden]
    unit_blocks = [b.split(h) for b, h in zip(plan.blocks, hidden, strict=False)]
    weight_blocks = [b.split(w) for b, w in zip(plan.blocks, weights, strict=True)]
    param_blocks = plan.blocks[-1].split(params)
    invert = _inverse_into(plan.bijection, y.dtype)
    steps = zip(y.unbind(0), x.unbind(0), ladj.unbind(0), param_blocks, strict=True)

    for p, (y_p, x_p, ladj_p, params_p) in enumerate(steps):
        known, source = p, x[:p]
        if periodic:
            known, source = 2 * p, read[: 2 * p]
        for i, blocks in enumerate(plan.blocks[:-1]):
            if blocks.sizes[p]:
                units = unit_blocks[i][p]
                if known:
                    units.addmm_(weight_blocks[i][p][:, :known], source)
                _activate(plan, i, units, source)
            known = blocks.stops[p]
            source = hidden[i][:known]
        if known:
            params_p.addmm_(weight_blocks[-1][p][:, :known], source)
        invert(y_p, params_p, x_p, ladj_p)
        if periodic:
            read[2 * p : 2 * p + 2] = encode(plan.features, x_p.unsqueeze(0))
    return Solution(x, ladj, params, sources)


def _activate(plan: Plan, i: int, units: Tensor, source: Tensor) -> None:
    """Applies a layer's activation and skip to one block of its rows, in place."""
    if plan.skips[i]:
        torch.add(source[-units.shape[0] :], plan.activations[i](units), out=units)
    elif plan.in_place is not None:
        plan.in_place[i].apply(units)
    else:
        units.copy_(plan.activations[i](units))


def _inverse_into(
    bijection: ScalarBijection, dtype: torch.dtype
) -> Callable[[Tensor, Tensor, Tensor, Tensor], None]:
    """The bijection's inverse of y (N,), given (P, N), that is written into x and ladj."""
    if is_closed_form(bijection, dtype):
        return bijection.solve_into

    def write(y: Tensor, params: Tensor, x: Tensor, ladj: Tensor) -> None:
        found, log_derivative = bijection.inverse(y, params)
        x.copy_(found)
        ladj.copy_(log_derivative)

    return write
