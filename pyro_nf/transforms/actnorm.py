"""A learned shift and scale that start from data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_nf._precision import widen
from pyro_nf.transforms._contract.features import features_first
from pyro_nf.transforms._linear.affine_map import AffineMap
from pyro_nf.transforms._linear.moments import mean_and_std


class ActNorm(AffineMap):
    r"""Activation normalisation, :math:`y_i = (x_i + m_i) e^{s_i} + c_i` with m and s learned.

    :meth:`initialize` sets it so that given data have mean 0 and variance 1 on the base side, in
    each dimension; ``fit_density`` calls it. Before that it is the identity.

    The location has two parts, so that steps of one size suit data of any location and unit. The
    centre c is the data's mean rounded to the layer's dtype, and never trained: without it, a step
    of the scale would throw data far from 0 off by many deviations. The shift m, in units of the
    base, starts from what rounding left.

    The centre is a parameter that never receives a gradient, not a buffer: optimisers pass over
    it, and Pyro's parameter store, which drops buffers, keeps it. (Under torch's
    ``DistributedDataParallel`` such parameters want ``find_unused_parameters=True``.)

    Either direction costs O(D) a row; the log-determinant is :math:`\sum_i s_i`.

    Args:
        input_dim: Number of dimensions D.

    References:
        Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
        arXiv:1807.03039, section 3.1.

    Examples:
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
        self.center = nn.Parameter(torch.zeros(self.input_dim))

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
        if not any(parameter.any() for parameter in self.parameters()):
            h = features_first(self, y, context, "y")
            mean, std = mean_and_std(self, h.reshape(h.shape[0], -1), self.log_scale.dtype)
            self.center.copy_(mean)
            self.shift.copy_((mean - self.center.double()) / std)
            self.log_scale.copy_(std.log())
        return self.inverse_and_ladj(y, context)[0]

    def _map_columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift, center = self._coefficients()
        return (x + shift) * log_scale.exp() + center, log_scale.sum()

    def _unmap_columns(self, y: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift, center = self._coefficients()
        return (y - center) * (-log_scale).exp() - shift, -log_scale.sum()

    def _coefficients(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-scale, shift and centre as columns ``(D, 1)``."""
        center = self.center.detach()
        log_scale, shift, center = map(widen, (self.log_scale, self.shift, center))
        return log_scale[:, None], shift[:, None], center[:, None]
