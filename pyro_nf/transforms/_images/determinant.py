"""Factors of unconstrained matrices, which may be singular."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_nf._tracing import host_can_read


class Factors(NamedTuple):
    r"""Factors of square matrices :math:`R \, P L U \, C`, ``(*batch, D, D)``, real or complex.

    Attributes:
        rows: The scales R of the rows, ``(*batch, D, 1)``.
        columns: The scales C of the columns, ``(*batch, D, 1)``.
        lu: Both triangles, packed as LAPACK does.
        pivots: The exchanges of rows.
        log_det: log|det|, ``(*batch,)``; NaN for a singular matrix.
    """

    rows: Tensor
    columns: Tensor
    lu: Tensor
    pivots: Tensor
    log_det: Tensor

    def solve(self, columns: Tensor) -> Tensor:
        """Solves for ``(*batch, D, points)``."""
        return torch.linalg.lu_solve(self.lu, self.pivots, columns / self.rows) / self.columns


def factorize(owner: str, what: str, matrix: Tensor, remedy: str) -> Factors:
    """Factors matrices; a singular one raises, or gives NaN where the host cannot look.

    Singular is what rounding cannot tell from it: a pivot below ε D times the largest one, after
    first the rows and then the columns are scaled to largest entries of about 1. Solves and
    determinants of such a matrix would be finite numbers without a correct digit.

    Args:
        owner: The layer, for the message.
        what: What the matrix is, for the message.
        matrix: Shape ``(*batch, D, D)``.
        remedy: What to do about it.

    Raises:
        torch.linalg.LinAlgError: If a matrix is singular, on a CPU, uncompiled and unmapped.
    """
    rows = _largest(matrix)
    matrix = matrix / rows
    columns = _largest(matrix.mT)
    matrix = matrix / columns.mT
    lu, pivots, _ = torch.linalg.lu_factor_ex(matrix)  # unchecked: no wait for an accelerator
    sizes = lu.diagonal(dim1=-2, dim2=-1).abs()  # (*batch, D)
    least = torch.finfo(matrix.dtype).eps * matrix.shape[-1] * sizes.amax(-1)
    singular = sizes.amin(-1) <= least
    if host_can_read(matrix) and singular.any():
        raise torch.linalg.LinAlgError(
            f"{owner} has {what} that is singular in {matrix.dtype}, so the map has no inverse. "
            f"{remedy}"
        )
    scales = (rows.log() + columns.log()).sum((-2, -1))
    log_det = torch.where(singular, torch.nan, sizes.log().sum(-1) + scales)
    lu = torch.where(singular[..., None, None], torch.nan, lu)
    return Factors(rows, columns, lu, pivots, log_det)


def _largest(matrix: Tensor) -> Tensor:
    """The largest size in each row, 1 of a row of zeros, ``(*batch, D, 1)``.

    As a power of two, by which division does not round; and as a constant, since it is multiplied
    back where it matters.
    """
    sizes = matrix.detach().abs().amax(-1, keepdim=True)
    return torch.where(sizes > 0, sizes.log2().floor().exp2(), 1)
