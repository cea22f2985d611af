"""Products of Householder reflections, all at once."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pyro_nf.bijections._matrices import solve_columns


def paired_vectors(count: int, size: int) -> Tensor:
    """Random vectors ``(count, size)``, each twice in a row but for a last single one."""
    return torch.randn((count + 1) // 2, size).repeat_interleave(2, dim=0)[:count].clone()


def reflect(
    vectors: Tensor, columns: Tensor, side: Literal["plain", "transposed"] = "plain"
) -> Tensor:
    r"""Multiplies columns by :math:`Q = H_1 ⋯ H_K`, or by its transpose.

    With unit vectors as the rows of V:

    1. From the right, :math:`H_k` subtracts :math:`c_k v_k` with
       :math:`c_k = 2 v_k^\top H_{k+1} ⋯ H_K x`, so :math:`Q x = x - V^\top c`.
    2. The same put into :math:`c_k` gives
       :math:`c_k/2 + \sum_{j>k} v_k^\top v_j c_j = v_k^\top x`: a triangular system S c = V x
       with 1/2 on the diagonal of S and the Gram matrix V Vᵀ above it.
    3. Hence :math:`Q = I - V^\top S^{-1} V` and :math:`Q^\top = I - V^\top S^{-\top} V`. No entry
       of :math:`S^{-1}` exceeds 4, so the solve is as accurate as the reflections one by one.

    Args:
        vectors: The reflections' normals, shape ``(*batch, K, D)``, of any length.
        columns: Shape ``(*batch, D, points)``; the batches broadcast.
        side: "plain" multiplies by Q, "transposed" by its inverse.

    Returns:
        Shape ``(*batch, D, points)``.
    """
    units = normalize(vectors, dim=-1)  # (*batch, K, D)
    half = torch.eye(units.shape[-2], dtype=units.dtype, device=units.device) / 2
    system = (units @ units.mT).triu(1) + half  # (*batch, K, K)
    projections = units @ columns  # (*batch, K, points)
    if side == "plain":
        steps = solve_columns(system, projections, side="upper", diagonal="given")
    else:
        steps = solve_columns(system.mT, projections, side="lower", diagonal="given")
    if units.ndim == columns.ndim == 2:
        return torch.addmm(columns, units.mT, steps, alpha=-1)
    return columns - units.mT @ steps
