"""The inverse of a residual map: a fixed point, by Anderson's acceleration with a safeguard."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_nf._tracing import host_can_read
from pyro_nf.bijections import ConvergenceError, Root
from pyro_nf.transforms._residual.function import Columns

_MEMORY = 10  # differences that the acceleration remembers


class _Search(NamedTuple):
    """The state of a search, for each column.

    Attributes:
        best: The point of least residual so far, ``(D, columns)``.
        step: Its plain step -g(best) + v - best, ``(D, columns)``.
        residual: The norm of that step, ``(columns,)``.
        trial: The point to evaluate next, ``(D, columns)``.
        plain: Whether the trial is ``best + step``, ``(columns,)``.
        done: ``(columns,)``.
        moves: Differences of points, each ``(D, columns)``, such that
        changes: the differences of steps that belong to them are orthonormal.
    """

    best: Tensor
    step: Tensor
    residual: Tensor
    trial: Tensor
    plain: Tensor
    done: Tensor
    moves: tuple[Tensor, ...]
    changes: tuple[Tensor, ...]


@torch.compiler.disable  # the search is eager, and stops early, under a compiler too
@torch.no_grad()
def solve(g: Columns, v: Tensor, root: Root, owner: str) -> Tensor:
    r"""Solves :math:`u + g(u) = v` for a contraction g, without a graph.

    The plain step :math:`u ← v - g(u)` shrinks the residual by the Lipschitz constant of g, so it
    converges, but slowly where that is near 1. Anderson's step first moves along the last
    differences of points so as to cancel what it can of the residual; the differences of steps
    are kept orthonormal, which makes that a few scalar products a column and no linear system. It
    is taken as long as it shrinks the residual; where it does not, the differences are forgotten
    and a plain step from the best point follows. Where even that shrinks nothing, what is left is
    rounding.

    Args:
        g: A function of columns with a Lipschitz constant below 1.
        v: Shape ``(D, columns)``.
        root: The largest number of evaluations of g; a column is found when its residual is below
            ``tolerance * (1 + |u|)``.
        owner: Who asks, for the message.

    Returns:
        u, shape ``(D, columns)``; NaN in columns where v or g(v) is not finite.

    Raises:
        ConvergenceError: If the residual of a column, in units of 1 + |u|, stays above the square
            root of the machine epsilon. Where no exception can be raised (``vmap``, an
            accelerator's queue), the column is NaN.

    References:
        - Iterative procedures for nonlinear integral equations (Anderson, 1965).
        - NLTGCR: a class of nonlinear acceleration procedures based on conjugate residuals (He et
          al., 2024), arXiv:2306.00325 (the orthonormal differences).
    """
    v = v.detach()
    tolerance = root.tolerance or 4 * torch.finfo(v.dtype).eps
    search = _start(g, v)
    hopeless = search.done
    stops_early = host_can_read(v)
    rounds = 1 if v.is_meta else root.iterations - 1  # meta tensors have shapes alone
    for count in range(rounds):
        search = _advance(g, search, v, tolerance, count)
        if stops_early and bool(search.done.all()):
            break
    scaled = search.residual / (1 + search.best.norm(dim=0))
    found = hopeless | (scaled <= max(tolerance, torch.finfo(v.dtype).eps ** 0.5))
    if stops_early and not bool(found.all()):
        raise ConvergenceError(
            f"{owner} found no inverse for {int((~found).sum())} of {found.numel()} rows within "
            f"{root.iterations} evaluations: the largest residual is "
            f"{float(scaled[~found].max()):.3g}. Pass root=Root(iterations=...) with a larger "
            "budget or a lower lipschitz, or compute in float64."
        )
    return torch.where(hopeless | ~found, torch.nan, search.best)


def _start(g: Columns, v: Tensor) -> _Search:
    step = -g(v)
    residual = step.norm(dim=0)
    done = ~residual.isfinite()
    none = (torch.zeros_like(v),) * min(_MEMORY, len(v))
    return _Search(v, step, residual, v + step, torch.ones_like(done), done, none, none)


def _advance(g: Columns, at: _Search, v: Tensor, tolerance: float, count: int) -> _Search:
    """One evaluation and the choice of the next, for every column that is not done."""
    step = v - g(at.trial) - at.trial
    residual = step.norm(dim=0)
    better = ~at.done & (residual < at.residual)
    moves, changes = _remember(at, step, better, count)

    best = torch.where(better, at.trial, at.best)
    step = torch.where(better, step, at.step)
    residual = torch.where(better, residual, at.residual)
    stuck = at.plain & ~better
    done = at.done | stuck | (residual <= tolerance * (1 + best.norm(dim=0)))

    trial = best + step
    for move, change in zip(moves, changes, strict=True):
        trial = trial - (change * step).sum(0) * (move + change)
    return _Search(best, step, residual, trial, ~better, done, moves, changes)


def _remember(
    at: _Search, step: Tensor, better: Tensor, count: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Replaces the oldest pair of differences by that from the best point to the trial.

    Columns whose trial was no better forget all: differences across a distance over which g is
    not linear mislead, and go on misleading.
    """
    move, change = at.trial - at.best, step - at.step
    size = change.norm(dim=0)
    oldest = count % len(at.moves)
    for i, (other_move, other_change) in enumerate(zip(at.moves, at.changes, strict=True)):
        if i != oldest:
            overlap = (other_change * change).sum(0)
            move = move - overlap * other_move
            change = change - overlap * other_change
    left = change.norm(dim=0)
    # A difference that the others already span says nothing more.
    scale = torch.where(left > 1e-3 * size, 1 / left, 0)
    moves, changes = list(at.moves), list(at.changes)
    moves[oldest], changes[oldest] = scale * move, scale * change
    return (
        tuple(torch.where(better, kept, 0) for kept in moves),
        tuple(torch.where(better, kept, 0) for kept in changes),
    )
