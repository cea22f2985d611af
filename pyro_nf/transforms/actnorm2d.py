"""A learned shift and scale of each channel that start from data."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from pyro_nf import _own_gradient
from pyro_nf._precision import narrow, widen
from pyro_nf.bijections._closed_form import Direction
from pyro_nf.transforms._images.channel_scale import ChannelScale
from pyro_nf.transforms._images.image_transform import ImageTransform, as_pass
from pyro_nf.transforms._linear.moments import mean_and_std


@final
class ActNorm2d(ImageTransform):
    r"""Activation normalisation of images, :math:`y_{c,h,w} = (x_{c,h,w} + m_c) e^{s_c} + b_c`.

    :meth:`initialize` sets it so that given data have mean 0 and variance 1 on the base side, in
    each channel over all images and pixels; ``fit_density`` calls it. Before that it is the
    identity. The centre b is the data's mean, a parameter that is never trained, and the shift m,
    learned like s, starts at what rounding left: see :class:`~pyro_nf.transforms.ActNorm`.

    Either direction costs O(C) a pixel; the log-determinant is :math:`H W \sum_c s_c`.

    Args:
        channels: Number C of channels.

    Raises:
        TypeError, ValueError: If ``channels`` is no positive integer.

    References:
        Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
        arXiv:1807.03039, section 3.1.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import ActNorm2d
        >>> layer = ActNorm2d(3)
        >>> y = 5 + 2 * torch.randn(50, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> x = layer.initialize(y)
        >>> torch.allclose(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5), x.std((0, 2, 3))
        (True, tensor([1.0000, 1.0000, 1.0000]))
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.center = nn.Parameter(torch.zeros(channels))

    @torch.no_grad()
    def initialize(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Sets the layer so that these data have mean 0 and variance 1 on the base side.

        Only a layer that is still the identity is set: one that was trained, restored or set
        before keeps its values. A constant channel keeps scale 1.

        Args:
            y: Data of shape ``(*batch, C, H, W)``, at least two pixels in all, finite.
            context: None; the layer takes no context.

        Returns:
            The base side of the data, without a graph.

        Raises:
            ValueError: If there are fewer than two pixels or a value is not finite.
        """
        if not any(parameter.any() for parameter in self.parameters()):
            columns = self._rows(y, context, "y")[0].movedim(1, 0).flatten(1)  # (C, pixels)
            dtype = self.log_scale.dtype
            mean, std = mean_and_std(self, columns, dtype, datum="image", axis="channel")
            self.center.copy_(mean)
            self.shift.copy_((mean - self.center.double()) / std)
            self.log_scale.copy_(std.log())
        return self.inverse_and_ladj(y, context)[0]

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps base to data."""
        return self._map(*self._rows(x, context, "x"), "forward")

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to base."""
        return self._map(*self._rows(y, context, "y"), "inverse")

    def _map(self, rows: Tensor, batch: torch.Size, direction: Direction) -> tuple[Tensor, Tensor]:
        pixels = widen(rows).movedim(1, -1)
        parameters = map(widen, (self.shift, self.log_scale, self.center.detach()))
        result, ladj = _own_gradient.apply(ChannelScale(direction), pixels, *parameters)
        return as_pass(narrow(result, rows.dtype).movedim(-1, 1), ladj, batch)
