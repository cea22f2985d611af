"""Rotations by the matrix exponential."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_nf.transforms._linear.affine_map import AffineMap
from pyro_nf.transforms._linear.precision import widen
from pyro_nf.transforms._linear.triangles import strict_count, strictly_lower


class Rotation(AffineMap):
    r"""A rotation, :math:`y = \exp(A - A^\top) x` with A strictly lower triangular.

    Reaches every rotation with D(D−1)/2 parameters and no redundancy. Starts at the identity; the
    log-determinant is 0 and the inverse the transpose. Either direction costs O(D²) a row, after
    O(D³) once a pass for the exponential.

    Args:
        input_dim: Number of dimensions D.

    Example:
        >>> import torch
        >>> from pyro_nf.transforms import Rotation
        >>> y, ladj = Rotation(3).forward_and_ladj(torch.ones(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(self, input_dim: int) -> None:
        super().__init__(input_dim)
        self.lower = nn.Parameter(torch.zeros(strict_count(self.input_dim)))

    def _map_columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rotation = self._rotation()
        return rotation @ x, rotation.new_zeros(())

    def _unmap_columns(self, y: Tensor) -> tuple[Tensor, Tensor]:
        rotation = self._rotation()
        return rotation.mT @ y, rotation.new_zeros(())

    def _rotation(self) -> Tensor:
        """The orthogonal matrix ``(D, D)``."""
        lower = strictly_lower(widen(self.lower), self.input_dim)
        return torch.linalg.matrix_exp(lower - lower.mT)
