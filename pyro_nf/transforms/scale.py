"""One learned scale for each dimension."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_nf.transforms._linear.affine_map import AffineMap
from pyro_nf.transforms._linear.precision import widen


class DiagonalScale(AffineMap):
    r"""A learned positive scale for each dimension, :math:`y_i = x_i e^{s_i}`.

    The last layer of NICE, whose couplings preserve volume. Starts at the identity. Either
    direction costs O(D) a row; the log-determinant is :math:`\sum_i s_i`.

    Args:
        input_dim: Number of dimensions D.

    References:
        NICE: Non-linear Independent Components Estimation (Dinh et al., 2014), arXiv 1410.8516.

    Example:
        >>> import torch
        >>> from pyro_nf.transforms import DiagonalScale
        >>> y, ladj = DiagonalScale(3).forward_and_ladj(torch.ones(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(self, input_dim: int) -> None:
        super().__init__(input_dim)
        self.log_scale = nn.Parameter(torch.zeros(self.input_dim))

    def _map_columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = widen(self.log_scale)
        return x * log_scale.exp()[:, None], log_scale.sum()

    def _unmap_columns(self, y: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = widen(self.log_scale)
        return y * (-log_scale).exp()[:, None], -log_scale.sum()
