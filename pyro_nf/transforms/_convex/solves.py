"""Linear solves with a Hessian that counts as a constant, by Cholesky or by conjugate gradients.

Both are linear in the right-hand side, and differentiable by it any number of times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_nf._tracing import host_can_read
from pyro_nf.nn._convex import Hessian

Solver = Callable[[Tensor], Tensor]
"""Multiplies columns ``(D, N)`` by the inverses of N matrices."""


def cholesky_solver(matrix: Tensor) -> Solver:
    """Creates a solver that factorises the matrices ``(N, D, D)`` once."""
    matrix = matrix.detach()
    # A shift of rounding's own size keeps the factors of a badly conditioned matrix real.
    shift = torch.finfo(matrix.dtype).eps * matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
    size = matrix.shape[-1]
    matrix = matrix + torch.diag_embed(shift[:, None].expand(-1, size))
    factor, failed = torch.linalg.cholesky_ex(matrix)
    # What a failed factorisation leaves is finite and meaningless.
    factor = torch.where(failed[:, None, None] > 0, torch.nan, factor)
    return lambda columns: torch.cholesky_solve(columns.t()[..., None], factor).squeeze(-1).t()


def iterative_solver(hessian: Hessian) -> Solver:
    """Creates a solver that only multiplies by the matrices."""
    factors = [part.detach() for part in hessian.flat()]
    return lambda columns: ConstantSolve.apply(columns, *factors)


class ConstantSolve(torch.autograd.Function):
    """Conjugate gradients as a linear map of the right-hand side.

    The matrix is symmetric, so that the map is its own transpose: the backward pass and the
    tangent are solves of the same kind.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(columns: Tensor, *factors: Tensor) -> Tensor:
        """Solves for ``(D, N)``."""
        return conjugate_gradients(Hessian.unflat(factors), columns)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keeps the matrices."""
        del output
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Solves for the gradient; the matrix is constant and gets none."""
        factors = ctx.saved_tensors
        return (ConstantSolve.apply(grad, *factors), *(None for _ in factors))

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *unused: Tensor | None) -> Tensor:
        """Solves for the tangent."""
        del unused
        return ConstantSolve.apply(tangent, *ctx.saved_tensors)


@torch.no_grad()
def conjugate_gradients(hessian: Hessian, columns: Tensor) -> Tensor:
    """Solves ``H z = columns`` for z ``(D, N)``, to ten roundings of the residual.

    On a CPU it stops when all columns are done; elsewhere, and under ``vmap``, it takes its
    whole budget, so that the host never waits. Exact arithmetic would need D steps.

    Args:
        hessian: N positive definite matrices.
        columns: Shape ``(D, N)``.

    Returns:
        Shape ``(D, N)``; NaN in the columns that are not finite.
    """
    may_stop = host_can_read(columns)
    solution, residual, direction = torch.zeros_like(columns), columns, columns
    square = (residual * residual).sum(0)
    enough = (10 * torch.finfo(columns.dtype).eps) ** 2 * square
    budget = 1 if columns.is_meta else min(3 * columns.shape[0] + 20, 500)
    for _ in range(budget):
        active = square > enough
        if may_stop and not bool(active.any()):
            break
        image = hessian.product(direction)
        curvature = torch.where(active, (direction * image).sum(0), 1)
        length = torch.where(active, square / curvature, 0)
        solution = solution + length * direction
        residual = residual - length * image
        before, square = torch.where(active, square, 1), (residual * residual).sum(0)
        direction = residual + (square / before) * direction
    return torch.where(columns.isfinite().all(0), solution, torch.nan)
