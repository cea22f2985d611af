"""The exact log-determinant of a residual map."""

from __future__ import annotations

import torch
from torch import Tensor


def log_det_plus_identity(jacobian: Tensor) -> Tensor:
    r"""Computes :math:`\log\det(I + J)` of contractions' Jacobians, which is never singular.

    Args:
        jacobian: Shape ``(D, D, columns)``.

    Returns:
        Shape ``(columns,)``. Cost: O(D³) a column.
    """
    size = len(jacobian)
    if size == 1:
        return jacobian[0, 0].log1p()
    if size == 2:  # a batched factorisation costs more than the network here
        (a, b), (c, d) = jacobian
        return (a + d + (a * d - b * c)).log1p()
    return torch.linalg.slogdet(plus_identity(jacobian))[1]


def plus_identity(jacobian: Tensor) -> Tensor:
    """Turns J ``(D, D, columns)`` into I + J ``(columns, D, D)``."""
    eye = torch.eye(len(jacobian), dtype=jacobian.dtype, device=jacobian.device)
    return jacobian.movedim(-1, 0) + eye
