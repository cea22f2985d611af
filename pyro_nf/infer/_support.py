"""Data outside of a flow's support, refused by row, column and value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_nf._modes import in_mode
from pyro_nf.distributions import AutoregressivePrior, Dequantized, Flow, MixtureOfFlows
from pyro_nf.transforms._support.angles import remedy
from pyro_nf.transforms._support.registered import tensors_in, unwrapped, with_tensors

Density = Flow | MixtureOfFlows | AutoregressivePrior | Dequantized

_BLOCK = 4096
_MOST_SHOWN = 6


@torch.no_grad()
def is_bounded(flow: Density, like: Tensor) -> bool:
    """Whether some real data lie outside of the flow's support, so that they must be checked.

    Args:
        flow: The flow.
        like: A tensor of its dtype and device.
    """
    context = like.new_zeros(1, flow.context_dim) if flow.context_dim else None
    # In "eval", because in "train" dropout would draw from the caller's generator.
    with in_mode(flow, "eval"):
        return not _holds_everything(flow(context).support)


@torch.no_grad()
def refuse_outside_support(
    flow: Density, x: Tensor, context: Tensor | None, owner: str, name: str
) -> None:
    """Raises if a row of ``x`` is outside of the flow's support; the message names the first.

    Cost: one call of ``flow(context)``, which may run a conditional base, for a block of rows.
    """

    def support(rows: slice) -> Constraint:
        return flow(None if context is None else context[rows]).support

    with in_mode(flow, "eval"):
        blocks = [slice(start, start + _BLOCK) for start in range(0, len(x), _BLOCK)]
        inside = torch.cat([support(rows).check(x[rows]) for rows in blocks])  # (rows,)
        if bool(inside.all()):
            return
        row = int(torch.nonzero(~inside)[0])
        where = _describe(support(slice(row, row + 1)), x[row : row + 1], row)
    raise ValueError(
        f"{owner} got {name} outside of the flow's support: {where} "
        f"({int((~inside).sum())} such rows). "
        + remedy(
            support(slice(row, row + 1)),
            "Remove or mend these rows, or build the flow with a support that contains them.",
        )
    )


def _holds_everything(support: Constraint) -> bool:
    """True on the whole real space, and for a support that no one can check."""
    constraint: Any = unwrapped(support)[0]
    if isinstance(constraint, (constraints.cat, constraints.stack)):
        return all(map(_holds_everything, constraint.cseq))
    return constraints.is_dependent(constraint) or type(constraint) is type(constraints.real)


def _describe(support: Constraint, x: Tensor, row: int) -> str:
    """Says what is wrong with the one row ``x``, of shape ``(1, *event)``."""
    constraint = unwrapped(support)[0]
    holds = constraint.check(x)
    if holds.shape != x.shape:  # a simplex, say, judges its numbers together
        values = [f"{value:.6g}" for value in x.flatten()[:_MOST_SHOWN].tolist()]
        dots = ["..."] if x.numel() > _MOST_SHOWN else []
        return f"row {row} is [{', '.join(values + dots)}], not in {constraint!r}"
    position = tuple(int(i) for i in torch.nonzero(~holds)[0])
    where = f"column {position[1]}" if len(position) == 2 else f"position {position[1:]}"
    wanted = _at(constraint, position, x.shape)
    return f"row {row}, {where} is {float(x[position])}, not in {wanted!r}"


def _at(constraint: Any, position: tuple[int, ...], shape: torch.Size) -> Constraint:
    """The constraint of one number of an event, with the bounds that are its own."""
    if isinstance(constraint, constraints.cat):
        column = position[-1]
        for part, length in zip(constraint.cseq, constraint.lengths, strict=True):
            if column < length:
                return _at(part, (*position[:-1], column), torch.Size([*shape[:-1], length]))
            column -= length
    bounds = (bound.broadcast_to(shape)[position] for bound in tensors_in(constraint))
    return with_tensors(constraint, bounds)
