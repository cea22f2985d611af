"""Strictly triangular matrices from their free entries."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor


def strict_count(size: int) -> int:
    """Number of entries below the diagonal of a square matrix."""
    return size * (size - 1) // 2


def strictly_lower(entries: Tensor, size: int) -> Tensor:
    """The matrix ``(size, size)`` with ``entries`` below its diagonal, row by row, else zero."""
    rows, columns = torch.tril_indices(size, size, offset=-1, device=entries.device)
    return entries.new_zeros(size, size).index_put((rows, columns), entries)


def well_conditioned(matrix: Tensor) -> Tensor:
    r"""A strict triangle N divided by :math:`\sqrt D`, which keeps I + N easy to invert.

    With independent entries of variance σ² below the diagonal, the squared norm of the solution
    of (I + N) z = e grows like (1 + σ²)^D: exponentially in the dimension (Viswanath & Trefethen,
    1998). Divided by √D it is (1 + σ²/D)^D < exp(σ²), whatever the dimension.
    """
    return matrix / math.sqrt(matrix.shape[-1])


def solve_columns(
    matrix: Tensor,
    columns: Tensor,
    *,
    side: Literal["lower", "upper"],
    diagonal: Literal["ones", "given"] = "ones",
) -> Tensor:
    """Solves ``matrix @ z = columns`` for z ``(D, rows)``, contiguous like the columns.

    Solved from the right on transposed views: the solver keeps columns contiguous, so from the
    left it would copy the columns and return the other memory order.

    Args:
        matrix: Triangular, shape ``(D, D)``.
        columns: Shape ``(D, rows)``.
        side: Where the matrix has its entries.
        diagonal: "ones" takes a unit diagonal instead of the matrix's own.
    """
    solution = torch.linalg.solve_triangular(
        matrix.mT,
        columns.mT,
        upper=side == "lower",
        left=False,
        unitriangular=diagonal == "ones",
    )
    return solution.mT
