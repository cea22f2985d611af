"""A learned shift and scale that start from data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_nf.transforms._contract.features import features_first
from pyro_nf.transforms._linear.affine_map import AffineMap
from pyro_nf.transforms._linear.moments import mean_and_std
from pyro_nf.transforms._linear.precision import widen


class ActNorm(AffineMap):
    r"""Activation normalisation, :math:`y_i = (x_i + m_i) e^{s_i}` with m and s learned.

    :meth:`initialize` sets it so that given data have mean 0 and variance 1 on the base side, in
    each dimension; ``fit_density`` calls it. Before that it is the identity. The shift m is in
    units of the base, so that steps of one size suit data of any location and unit. There is no
    state beside the two parameters: Pyro's parameter store, which drops buffers, keeps all of it.

    Either direction costs O(D) a row; the log-determinant is :math:`\sum_i s_i`.

    Args:
        input_dim: Number of dimensions D.

    References:
        Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
        arXiv:1807.03039, section 3.1.

    Example:
        >>> import torch
        >>> from pyro_nf.transforms import ActNorm
        >>> layer = ActNorm(2)
        >>> x = layer.initialize(torch.tensor([[1.0, 10.0], [3.0, 50.0], [5.0, 30.0]]))
        >>> torch.allclose(x.mean(0), torch.zeros(2), atol=1e-6), x.std(0)
        (True, tensor([1.0000, 1.0000]))
    """

    def __init__(self, input_dim: int) -> None:
        super().__init__(input_dim)
        self.shift = nn.Parameter(torch.zeros(self.input_dim))
        self.log_scale = nn.Parameter(torch.zeros(self.input_dim))

    @torch.no_grad()
    def initialize(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Sets the layer so that these data have mean 0 and variance 1 on the base side.

        Only a layer that is still the identity is set: one that was trained, restored or set
        before keeps its values. A constant dimension keeps scale 1.

        Args:
            y: Data of shape ``(*batch, D)``, at least two rows, finite.
            context: None; the layer takes no context.

        Returns:
            The base side of the data, without a graph.

        Raises:
            ValueError: If there are fewer than two rows or a value is not finite.
        """
        if not (self.shift.any() or self.log_scale.any()):
            h = features_first(self, y, context, "y")
            mean, std = mean_and_std(self, h.reshape(h.shape[0], -1), self.log_scale.dtype)
            self.shift.copy_(mean / std)
            self.log_scale.copy_(std.log())
        return self.inverse_and_ladj(y, context)[0]

    def _map_columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = widen(self.log_scale)
        return (x + widen(self.shift)[:, None]) * log_scale.exp()[:, None], log_scale.sum()

    def _unmap_columns(self, y: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = widen(self.log_scale)
        return y * (-log_scale).exp()[:, None] - widen(self.shift)[:, None], -log_scale.sum()
