"""Factors of unconstrained matrices, which may be singular."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_nf._tracing import host_can_read


class Factors(NamedTuple):
    """LU factors of square matrices ``(*batch, D, D)``, real or complex.

    Attributes:
        lu: Both triangles, packed as LAPACK does.
        pivots: The exchanges of rows.
        log_det: log|det|, ``(*batch,)``; NaN for a singular matrix.
    """

    lu: Tensor
    pivots: Tensor
    log_det: Tensor

    def solve(self, columns: Tensor) -> Tensor:
        """Solves for ``(*batch, D, points)``."""
        return torch.linalg.lu_solve(self.lu, self.pivots, columns)


def factorize(owner: str, what: str, matrix: Tensor, remedy: str) -> Factors:
    """Factors matrices; a singular one raises, or gives NaN where the host cannot look.

    Singular is what rounding cannot tell from it: a pivot below ε D times the largest one. Solves
    and determinants of such a matrix would be finite numbers without a correct digit.

    Args:
        owner: The layer, for the message.
        what: What the matrix is, for the message.
        matrix: Shape ``(*batch, D, D)``.
        remedy: What to do about it.

    Raises:
        torch.linalg.LinAlgError: If a matrix is singular, on a CPU, uncompiled and unmapped.
    """
    lu, pivots, _ = torch.linalg.lu_factor_ex(matrix)  # unchecked: no wait for an accelerator
    sizes = lu.diagonal(dim1=-2, dim2=-1).abs()  # (*batch, D)
    least = torch.finfo(matrix.dtype).eps * matrix.shape[-1] * sizes.amax(-1)
    singular = sizes.amin(-1) <= least
    if host_can_read(matrix) and singular.any():
        raise torch.linalg.LinAlgError(
            f"{owner} has {what} that is singular in {matrix.dtype}, so the map has no inverse. "
            f"{remedy}"
        )
    log_det = torch.where(singular, torch.nan, sizes.log().sum(-1))
    return Factors(torch.where(singular[..., None, None], torch.nan, lu), pivots, log_det)
