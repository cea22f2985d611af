"""The minimisation of convex functions, one in each column, by descent along given directions."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pyro_nf._tracing import host_can_read
from pyro_nf.bijections import ConvergenceError
from pyro_nf.nn._convex import ConvexValues, activations, gradient_at, potential_at


class Objective(NamedTuple):
    """The function F(x) − yᵀx at a point of each column.

    Attributes:
        x: The point, ``(D, n)``.
        value: Shape ``(n,)``.
        noise: How far rounding may have moved the value, ``(n,)``.
        gradient: ∇F(x) − y, ``(D, n)``.
        pre: What the hidden units receive, each ``(H_k, n)``.
        size: The largest entry of |y|, ``(n,)``.
    """

    x: Tensor
    value: Tensor
    noise: Tensor
    gradient: Tensor
    pre: list[Tensor]
    size: Tensor


class Move(NamedTuple):
    """Where to go next.

    Attributes:
        direction: Shape ``(D, n)``.
        step: How much of the direction to try, ``(n,)``.
        memory: What the method keeps.
        enough: Whether the point is good enough, should it have been accepted, ``(n,)``.
    """

    direction: Tensor
    step: Tensor
    memory: tuple[Tensor, ...]
    enough: Tensor


class Search(NamedTuple):
    """The state of a search; the columns come last in every tensor.

    Attributes:
        x: Shape ``(D, n)``.
        value, gradient: The objective at x, ``(n,)`` and ``(D, n)``.
        direction: Where to go from x, ``(D, n)``.
        step: How much of the direction to try next, ``(n,)``.
        done: Shape ``(n,)``.
        memory: What the method keeps.
    """

    x: Tensor
    value: Tensor
    gradient: Tensor
    direction: Tensor
    step: Tensor
    done: Tensor
    memory: tuple[Tensor, ...]

    def columns(self, index: Tensor) -> Search:
        """The state of some columns."""
        parts = (part.index_select(-1, index) for part in self[:-1])
        memory = tuple(part.index_select(-1, index) for part in self.memory)
        return Search._make((*parts, memory))

    def merged(self, index: Tensor, part: Search) -> Search:
        """The whole state, with some columns from ``part``."""
        pairs = zip(self[:-1], part[:-1], strict=True)
        whole = (a.index_copy(-1, index, b) for a, b in pairs)
        return Search._make((*whole, self.memory))  # a column that left needs its memory no more


class Method(Protocol):
    """Where to go next, and when to stop."""

    def begin(self, values: ConvexValues, at: Objective) -> Move:
        """The first move."""

    def proceed(
        self, values: ConvexValues, search: Search, at: Objective, accepted: Tensor
    ) -> Move:
        """The next move: from ``at`` in the columns that accepted it, else from ``search.x``."""


def evaluate(values: ConvexValues, target: Tensor, x: Tensor) -> Objective:
    """Evaluates the objective at x ``(D, n)`` for targets y ``(D, n)``."""
    pre = activations(values, x)
    potential, pull = potential_at(values, x, pre), target * x
    gradient = gradient_at(values, x, pre)[0] - target
    noise = 32 * torch.finfo(x.dtype).eps * (potential.abs() + pull.abs().sum(0))
    return Objective(x, potential - pull.sum(0), noise, gradient, pre, largest(target))


def largest(columns: Tensor) -> Tensor:
    """The largest absolute value of each column."""
    return columns.abs().amax(0)


def minimise(
    values: ConvexValues, target: Tensor, method: Method, iterations: int, owner: str
) -> Tensor:
    """Minimises F(x) − yᵀx from x = 0, without a graph.

    Args:
        values: The network's numbers, detached.
        target: y, shape ``(D, n)``, detached.
        method: The method.
        iterations: The largest number of evaluations.
        owner: Who asks, for the message.

    Returns:
        x of shape ``(D, n)``; NaN where y or the network is not finite.

    Raises:
        ConvergenceError: If a column is not found within the budget. Where no exception can be
            raised (``vmap``, an accelerator's queue), the column is NaN.
    """
    at = evaluate(values, target, torch.zeros_like(target))
    hopeless = ~(at.gradient.isfinite().all(0) & at.value.isfinite())
    move = method.begin(values, at)
    search = Search(
        at.x, at.value, at.gradient, move.direction, move.step, hopeless | move.enough, move.memory
    )
    if not host_can_read(target):
        # Meta tensors have shapes alone: one evaluation says all.
        for _ in range(1 if target.is_meta else iterations):
            search = _advance(values, target, method, search)
    else:
        search = _narrowing(values, target, method, search, iterations)
        if not bool(search.done.all()):
            raise ConvergenceError(_message(owner, search, iterations))
    return torch.where(hopeless | ~search.done, torch.nan, search.x)


def _advance(values: ConvexValues, target: Tensor, method: Method, search: Search) -> Search:
    """One evaluation: the step is taken, or shortened.

    Taken is a step that lowers the value by what the slope promises (Armijo); where the values
    differ by rounding only, one that flattens the slope (Hager & Zhang, 2005); and, where even
    slopes are rounding, any that is small.
    """
    at = evaluate(values, target, search.x + search.step * search.direction)
    slope = (search.gradient * search.direction).sum(0)
    new_slope = (at.gradient * search.direction).sum(0)
    lower = at.value <= search.value + 1e-4 * search.step * slope
    level = at.value <= search.value + at.noise
    flatter = new_slope.abs() <= 0.9 * slope.abs()
    small = is_small(search.step * search.direction, search.x)
    accepted = (lower | level & flatter | small) & at.value.isfinite() & ~search.done

    move = method.proceed(values, search, at, accepted)
    return Search(
        torch.where(accepted, at.x, search.x),
        torch.where(accepted, at.value, search.value),
        torch.where(accepted, at.gradient, search.gradient),
        move.direction,
        move.step,
        search.done | accepted & move.enough,
        move.memory,
    )


def is_small(direction: Tensor, x: Tensor) -> Tensor:
    """Whether a step has come to where Newton's method doubles its digits, ``(n,)``."""
    return largest(direction) <= torch.finfo(x.dtype).eps ** 0.5 * (1 + largest(x))


def _narrowing(
    values: ConvexValues, target: Tensor, method: Method, search: Search, iterations: int
) -> Search:
    """Steps until all is done; once half of the columns are, goes on with the others alone."""
    whole, active = search, None  # None: all columns
    for _ in range(iterations):
        left = int(search.done.numel() - search.done.sum())
        if left == 0:
            break
        if left <= search.done.numel() // 2:
            whole = search if active is None else whole.merged(active, search)
            keep = (~search.done).nonzero().squeeze(1)
            active = keep if active is None else active[keep]
            search, values, target = search.columns(keep), values.columns(keep), target[:, keep]
        search = _advance(values, target, method, search)
    return search if active is None else whole.merged(active, search)


_REMEDY = "Pass root=Root(iterations=...) with a larger budget, or compute in float64."


def _message(owner: str, search: Search, iterations: int) -> str:
    left = ~search.done
    return (
        f"{owner} found no inverse for {int(left.sum())} of {left.numel()} values within "
        f"{iterations} evaluations: the largest residual is "
        f"{float(search.gradient[:, left].abs().max()):.3g}. {_REMEDY}"
    )
