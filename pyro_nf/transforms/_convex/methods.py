"""Directions of descent: Newton's, and those of limited memory."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_nf.nn._convex import ConvexValues, gradient_at
from pyro_nf.transforms._convex.search import Move, Objective, Search, largest
from pyro_nf.transforms._convex.solves import cholesky_solver

_GROWTH = 3.0  # how many times longer than the last a Newton step may be


class Newton:
    """Newton's direction, with the curvature of each unit averaged over the last step's length.

    A sharp unit is flat but for a narrow kink: Newton's own steps from the flat overshoot, and
    those from a kink are tiny. Here the curvature of a unit is its mean over as far to both sides
    as the last step changed what the unit receives. As the steps shrink they become Newton's. No
    step is much longer than the one before, for where it ends the Hessian says nothing.

    Args:
        tolerance: Done when the next step is below ``tolerance * (1 + |x|)``, or the residual is
            rounding; None is the machine epsilon to the power 2/3.
    """

    def __init__(self, tolerance: float | None) -> None:
        self.tolerance = tolerance

    def begin(self, values: ConvexValues, at: Objective) -> Move:
        """The first move: the units' curvatures are averaged to where they bend most."""
        spans = [pre.abs() for pre in at.pre]
        matrix = gradient_at(values, at.x, at.pre, spans)[1].matrix()
        return self._move(matrix, at.x, at.gradient, at)

    def proceed(
        self, values: ConvexValues, search: Search, at: Objective, accepted: Tensor
    ) -> Move:
        """The next direction, or a shorter step along the same."""
        pairs = list(zip(at.pre, search.memory, strict=True))
        spans = [(new - old).abs() for new, old in pairs]
        matrix = gradient_at(values, at.x, at.pre, spans)[1].matrix()
        move = self._move(matrix, at.x, at.gradient, at)
        taken = torch.linalg.vector_norm(search.step * search.direction, dim=0)
        longest = _GROWTH * taken / torch.linalg.vector_norm(move.direction, dim=0)
        return Move(
            torch.where(accepted, move.direction, search.direction),
            torch.where(accepted, torch.clamp(longest, max=1), shortened(search, at)),
            tuple(torch.where(accepted, new, old) for new, old in pairs),
            move.enough,
        )

    def _move(self, matrix: Tensor, x: Tensor, gradient: Tensor, at: Objective) -> Move:
        direction = -cholesky_solver(matrix)(gradient)
        tolerance = self.tolerance or torch.finfo(x.dtype).eps ** (2 / 3)
        found = largest(direction) <= tolerance * (1 + largest(x))
        found = found | is_rounding(x, gradient, at.size, torch.linalg.matrix_norm(matrix))
        return Move(direction, torch.ones_like(at.value), tuple(at.pre), found)


class LBFGS:
    r"""The direction of limited-memory BFGS, one history for each column.

    The curvature of a strongly convex function along a step is positive, so that every pair may
    enter the history.

    Args:
        tolerance: Done when :math:`|∇F(x) - y| / α`, which bounds the distance to the root, is
            below ``tolerance * (1 + |x|)``, or the residual is rounding; None is the square root
            of the machine epsilon.
        pairs: Length of the history.

    References:
        On the limited memory BFGS method for large scale optimization (Liu & Nocedal, 1989).
    """

    def __init__(self, tolerance: float | None, pairs: int = 10) -> None:
        self.tolerance, self.pairs = tolerance, pairs

    def begin(self, values: ConvexValues, at: Objective) -> Move:
        """Cauchy's step, and an empty history."""
        hessian = gradient_at(values, at.x, at.pre)[1]
        square = (at.gradient * at.gradient).sum(0)
        curvature = (at.gradient * hessian.product(at.gradient)).sum(0)
        curvature = torch.where(curvature > 0, curvature, 1)
        history = at.x.new_zeros(self.pairs, *at.x.shape)  # (pairs, D, n), the oldest first
        inverse = at.x.new_zeros(self.pairs, at.x.shape[1])  # 1 / (step · change), or 0
        return Move(
            -square / curvature * at.gradient,
            torch.ones_like(at.value),
            (history, history, inverse),
            self._found(values, at, curvature / torch.where(square > 0, square, 1)),
        )

    def proceed(
        self, values: ConvexValues, search: Search, at: Objective, accepted: Tensor
    ) -> Move:
        """The two-loop recursion after a step that was accepted; else the same, shorter."""
        step, change = at.x - search.x, at.gradient - search.gradient
        product, square = (step * change).sum(0), (change * change).sum(0)
        sound = product > 0  # else it is rounding
        product = torch.where(sound, product, 1)
        inverse = torch.where(sound, 1 / product, 0)
        steps, changes, inverses = memory = tuple(
            torch.where(accepted, torch.cat([old[1:], new[None]]), old)
            for old, new in zip(search.memory, (step, change, inverse), strict=True)
        )
        scale = torch.where(sound, product / torch.where(sound, square, 1), 1 / values.strength)

        direction, weights = -at.gradient, []
        for i in range(self.pairs - 1, -1, -1):
            weights.append(inverses[i] * (steps[i] * direction).sum(0))
            direction = direction - weights[-1] * changes[i]
        direction = direction * scale
        for i in range(self.pairs):
            back = inverses[i] * (changes[i] * direction).sum(0)
            direction = direction + (weights[self.pairs - 1 - i] - back) * steps[i]

        return Move(
            torch.where(accepted, direction, search.direction),
            torch.where(accepted, 1, shortened(search, at)),
            memory,
            self._found(values, at, 1 / scale),
        )

    def _found(self, values: ConvexValues, at: Objective, curvature: Tensor) -> Tensor:
        tolerance = self.tolerance or torch.finfo(at.x.dtype).eps ** 0.5
        distance = torch.linalg.vector_norm(at.gradient, dim=0) / values.strength
        found = distance <= tolerance * (1 + largest(at.x))
        return found | is_rounding(at.x, at.gradient, at.size, curvature)


def shortened(search: Search, at: Objective) -> Tensor:
    """What to try after a step that was too long, ``(n,)``."""
    slope = (search.gradient * search.direction).sum(0)
    growth = ((at.gradient - search.gradient) * search.direction).sum(0)
    # The slope grows along a line: its secant says where it is 0.
    secant = torch.nan_to_num(-search.step * slope / growth, nan=0.0)
    return torch.clamp(secant, 0.1 * search.step, 0.5 * search.step)


def is_rounding(x: Tensor, residual: Tensor, size: Tensor, curvature: Tensor) -> Tensor:
    """Whether a residual may be the rounding of y, or of x times the curvature, ``(n,)``."""
    eps = torch.finfo(x.dtype).eps
    return largest(residual) <= 4 * eps * (size + curvature * largest(x))
