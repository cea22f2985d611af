"""Affine maps that mix a latent with its ancestors alone."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from pyro_nf.transforms._linear.affine_map import AffineMap


@final
class StructuredAffine(AffineMap):
    r"""A learned affine map :math:`y = L x + b` in which a dimension sees its ancestors alone.

    :math:`L = \operatorname{diag}(e^s)(I + N / \sqrt D)`, with N zero wherever the graph has no
    path. On a standard normal it covers every Gaussian that is Markov to the graph. Starts at the
    identity. Either direction costs O(D²) a row.

    Args:
        ancestors: Boolean matrix ``(D, D)``, strictly lower triangular and closed: entry (i, j)
            says whether j is an ancestor of i.

    Examples:
        >>> import torch
        >>> layer = StructuredAffine(torch.ones(3, 3).tril(-1) > 0)
        >>> y, ladj = layer.forward_and_ladj(torch.zeros(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    pattern: Tensor

    def __init__(self, ancestors: Tensor) -> None:
        super().__init__(len(ancestors))
        self.register_buffer("pattern", ancestors)
        self.log_scale = nn.Parameter(torch.zeros(len(ancestors)))
        self.lower = nn.Parameter(torch.zeros(ancestors.shape))
        self.bias = nn.Parameter(torch.zeros(len(ancestors)))

    def _map_columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, bias = self.log_scale[:, None], self.bias[:, None]
        return (x + self._mixing() @ x) * log_scale.exp() + bias, log_scale.sum()

    def _unmap_columns(self, y: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, bias = self.log_scale[:, None], self.bias[:, None]
        mixed = (y - bias) * torch.exp(-log_scale)
        # The solver takes the unit diagonal for granted.
        x = torch.linalg.solve_triangular(self._mixing(), mixed, upper=False, unitriangular=True)
        return x, -log_scale.sum()

    def _mixing(self) -> Tensor:
        return self.lower * self.pattern / math.sqrt(self.input_dim)


@final
class StructuredWhitening(AffineMap):
    r"""A fixed affine map :math:`x = m + L z` in which a dimension sees its ancestors' z alone.

    The factor L of a covariance that is Markov to the graph, such as the inverse Hessian of the
    model's log density, has just this form. As in ``Whitening``, m and L are parameters that
    never receive a gradient. Either direction costs O(D²) a row.

    Args:
        loc: Location m, shape ``(D,)``.
        scale: First scale of each dimension, shape ``(D,)``.
        ancestors: Boolean matrix ``(D, D)``, as for :class:`StructuredAffine`.

    Examples:
        >>> import torch
        >>> layer = StructuredWhitening(torch.zeros(2), torch.ones(2), torch.eye(2) > 2)
        >>> layer.move(torch.ones(2), torch.tensor([[2.0, 0.0], [1.0, 3.0]]))
        >>> layer.scale.detach()  # neither is an ancestor of the other
        tensor([[2., 0.],
                [0., 3.]])
    """

    pattern: Tensor

    def __init__(self, loc: Tensor, scale: Tensor, ancestors: Tensor) -> None:
        super().__init__(len(loc))
        self.register_buffer("pattern", ancestors.clone().fill_diagonal_(1))
        self.loc = nn.Parameter(loc.detach().clone())
        self.scale = nn.Parameter(scale.detach().diag())

    @torch.no_grad()
    def move(self, loc: Tensor, scale_tril: Tensor) -> None:
        """Sets the frame to a Gaussian's mean and the factor of its covariance."""
        self.loc.copy_(loc)
        self.scale.copy_(scale_tril * self.pattern)

    def _map_columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.scale.detach()
        return scale @ x + self.loc.detach()[:, None], scale.diagonal().log().sum()

    def _unmap_columns(self, y: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.scale.detach()
        centred = y - self.loc.detach()[:, None]
        x = torch.linalg.solve_triangular(scale, centred, upper=False)
        return x, -scale.diagonal().log().sum()
