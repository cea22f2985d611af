"""Triangular matrices in batches: from their free entries, in products, in solves."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor


def strict_count(size: int) -> int:
    """Number of entries below the diagonal of a square matrix."""
    return size * (size - 1) // 2


def strictly_lower(entries: Tensor, size: int) -> Tensor:
    """The matrices ``(*batch, size, size)`` with ``entries`` below the diagonal, row by row."""
    rows, columns = torch.tril_indices(size, size, offset=-1, device=entries.device)
    batch = entries.shape[:-1]
    index = (rows * size + columns).expand(entries.shape)
    flat = entries.new_zeros(*batch, size * size).scatter(-1, index, entries)
    return flat.reshape(*batch, size, size)


def well_conditioned(matrix: Tensor) -> Tensor:
    r"""A strict triangle N divided by :math:`\sqrt D`, which keeps I + N easy to invert.

    With independent entries of variance σ² below the diagonal, the squared norm of the solution
    of (I + N) z = e grows like (1 + σ²)^D: exponentially in the dimension (Viswanath & Trefethen,
    1998). Divided by √D it is (1 + σ²/D)^D < exp(σ²), whatever the dimension.
    """
    return matrix / math.sqrt(matrix.shape[-1])


def softly_bounded(matrix: Tensor, bound: float) -> Tensor:
    """The matrix times a factor that keeps the root mean square of its entries below ``bound``."""
    return matrix * (1 + matrix.square().mean((-2, -1), keepdim=True) / bound**2).rsqrt()


def add_product(base: Tensor, matrix: Tensor, columns: Tensor) -> Tensor:
    """``base + matrix @ columns``, in one pass where there is no batch."""
    if matrix.ndim == columns.ndim == base.ndim == 2:
        return torch.addmm(base, matrix, columns)
    return base + matrix @ columns


def solve_columns(
    matrix: Tensor,
    columns: Tensor,
    *,
    side: Literal["lower", "upper"],
    diagonal: Literal["ones", "given"] = "ones",
) -> Tensor:
    """Solves ``matrix @ z = columns`` for z ``(*batch, D, points)``, laid out like the columns.

    Solved from the right on transposed views: the solver keeps columns contiguous, so from the
    left it would copy the columns and return the other memory order.

    Args:
        matrix: Triangular, shape ``(*batch, D, D)``.
        columns: Shape ``(*batch, D, points)``; the batches broadcast.
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
