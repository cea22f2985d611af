"""The frame in which a posterior's flow lives."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from pyro_nf.transforms._linear.affine_map import AffineMap


@final
class Whitening(AffineMap):
    r"""A fixed affine map :math:`x = m + L z` from whitened to unconstrained coordinates.

    Location m and scale L stay as they were set: a step of an optimiser is then as long in each
    direction of z as the posterior is wide. They are parameters that never receive a gradient, not
    buffers: optimisers pass over them, and Pyro's parameter store, which drops buffers, keeps
    them. L is a lower triangular matrix, at O(D²) a row in either direction, or a vector, its
    diagonal.

    Args:
        loc: Location m, shape ``(D,)``.
        scale: L, shape ``(D, D)`` or ``(D,)``.

    Examples:
        >>> import torch
        >>> layer = Whitening(torch.ones(3), 2 * torch.eye(3))
        >>> y, ladj = layer.forward_and_ladj(torch.zeros(5, 3))
        >>> y[0], round(float(ladj[0].exp()), 4)
        (tensor([1., 1., 1.]), 8.0)
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__(len(loc))
        self.loc = nn.Parameter(loc.detach().clone())
        self.scale = nn.Parameter(scale.detach().clone())

    @torch.no_grad()
    def move(self, loc: Tensor, scale_tril: Tensor) -> None:
        """Sets the frame: m, and L as a matrix ``(D, D)``, of which a diagonal frame takes sds."""
        self.loc.copy_(loc)
        whole = self.scale.ndim == 2
        self.scale.copy_(scale_tril if whole else scale_tril.square().sum(1).sqrt())

    def _map_columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = self.loc.detach(), self.scale.detach()
        scaled = scale @ x if scale.ndim == 2 else scale[:, None] * x
        return scaled + loc[:, None], _log_det(scale)

    def _unmap_columns(self, y: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = self.loc.detach(), self.scale.detach()
        centred = y - loc[:, None]
        if scale.ndim == 1:
            return centred / scale[:, None], -_log_det(scale)
        x = torch.linalg.solve_triangular(scale, centred, upper=False)
        return x, -_log_det(scale)


def _log_det(scale: Tensor) -> Tensor:
    return (scale.diagonal() if scale.ndim == 2 else scale).log().sum()
