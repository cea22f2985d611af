"""Products of Householder reflections."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pyro_nf._checks import positive_int
from pyro_nf.transforms._linear.affine_map import AffineMap
from pyro_nf.transforms._linear.precision import widen
from pyro_nf.transforms._linear.triangles import solve_columns


class Householder(AffineMap):
    r"""A product of K reflections, :math:`y = H_1 ⋯ H_K x`, :math:`H = I - 2 v v^\top / |v|^2`.

    An orthogonal map: its log-determinant is 0 and its inverse the transpose. D reflections reach
    every orthogonal matrix. The vectors start in equal pairs, whose reflections cancel: with an
    even number the layer starts at the identity, and it can leave it since the two of a pair have
    opposite gradients. Either direction costs O(KD + K²) a row, in two matrix products and one
    solve of size K instead of K steps.

    Args:
        input_dim: Number of dimensions D.
        reflections: Number of reflections K.

    References:
        Improving Variational Auto-Encoders using Householder Flow (Tomczak & Welling, 2016),
        arXiv 1611.09630.

    Example:
        >>> import torch
        >>> from pyro_nf.transforms import Householder
        >>> layer = Householder(3, reflections=4)
        >>> y, ladj = layer.forward_and_ladj(torch.ones(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(self, input_dim: int, *, reflections: int = 2) -> None:
        super().__init__(input_dim)
        self.reflections = positive_int("Householder", "reflections", reflections)
        self.vectors = nn.Parameter(paired_vectors(self.reflections, self.input_dim))

    def _map_columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        vectors = widen(self.vectors)
        return reflect(vectors, x), vectors.new_zeros(())

    def _unmap_columns(self, y: Tensor) -> tuple[Tensor, Tensor]:
        vectors = widen(self.vectors)
        return reflect(vectors, y, side="transposed"), vectors.new_zeros(())

    @property
    def sign(self) -> int:
        """For one dimension, where each reflection is y = -x, that of their number."""
        return (-1) ** self.reflections * super().sign

    def extra_repr(self) -> str:
        """The sizes, for ``repr``."""
        return f"{super().extra_repr()}, reflections={self.reflections}"


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
        vectors: The reflections' normals, shape ``(K, D)``, of any length.
        columns: Shape ``(D, rows)``.
        side: "plain" multiplies by Q, "transposed" by its inverse.

    Returns:
        Shape ``(D, rows)``.
    """
    units = normalize(vectors, dim=1)  # (K, D)
    half = torch.eye(len(units), dtype=units.dtype, device=units.device) / 2
    system = (units @ units.mT).triu(1) + half  # (K, K)
    projections = units @ columns  # (K, rows)
    if side == "plain":
        steps = solve_columns(system, projections, side="upper", diagonal="given")
    else:
        steps = solve_columns(system.mT, projections, side="lower", diagonal="given")
    return torch.addmm(columns, units.mT, steps, alpha=-1)
