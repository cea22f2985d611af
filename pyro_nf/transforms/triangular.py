"""A lower triangular affine map: any multivariate normal from a standard one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_nf.transforms._linear.affine_map import AffineMap
from pyro_nf.transforms._linear.precision import widen
from pyro_nf.transforms._linear.triangles import (
    solve_columns,
    strict_count,
    strictly_lower,
    well_conditioned,
)


class TriangularAffine(AffineMap):
    r"""A lower triangular affine map, :math:`y = L x + b`: on a standard normal, any normal.

    :math:`L = \operatorname{diag}(e^s)(I + N/\sqrt D)` with N strictly lower triangular covers
    every lower triangular matrix with a positive diagonal. The scales multiply outside, so they
    neither amplify rounding in a round trip nor bound the standard deviations that can be reached.
    Starts at the identity. Either direction costs O(D²) a row; the log-determinant is
    :math:`\sum_i s_i`.

    Args:
        input_dim: Number of dimensions D.

    Example:
        >>> import torch
        >>> from pyro_nf.transforms import TriangularAffine
        >>> layer = TriangularAffine(3)
        >>> y, ladj = layer.forward_and_ladj(torch.zeros(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(self, input_dim: int) -> None:
        super().__init__(input_dim)
        self.log_scale = nn.Parameter(torch.zeros(self.input_dim))
        self.lower = nn.Parameter(torch.zeros(strict_count(self.input_dim)))
        self.bias = nn.Parameter(torch.zeros(self.input_dim))

    def _map_columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = widen(self.log_scale)
        mixed = torch.addmm(x, self._lower(), x)
        return mixed * log_scale.exp()[:, None] + widen(self.bias)[:, None], log_scale.sum()

    def _unmap_columns(self, y: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = widen(self.log_scale)
        mixed = (y - widen(self.bias)[:, None]) * (-log_scale).exp()[:, None]
        return solve_columns(self._lower(), mixed, side="lower"), -log_scale.sum()

    def _lower(self) -> Tensor:
        """What L adds to the identity before the scales: ``(D, D)``, strictly lower."""
        return well_conditioned(strictly_lower(widen(self.lower), self.input_dim))
