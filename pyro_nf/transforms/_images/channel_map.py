"""One linear map of the channels at every pixel."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from pyro_nf import _own_gradient
from pyro_nf._precision import narrow, widen, without_autocast
from pyro_nf.bijections._vector import Params
from pyro_nf.transforms._images.channel_weights import PLUWeight
from pyro_nf.transforms._images.image_transform import ImageTransform
from pyro_nf.transforms._images.plu_product import PLUProduct
from pyro_nf.transforms._joint import JointWiring


class ChannelMap(ImageTransform):
    r"""A linear map of the channels at every pixel, :math:`y_{:,h,w} = W x_{:,h,w}` (abstract).

    A layer of vectors maps the unit vectors, once for each set of parameters: that is W, or its
    inverse, and one product applies it to all pixels. The log-determinant is the layer's, times
    the number of pixels.

    Args:
        mixing: The layer of vectors, linear.
    """

    def __init__(self, mixing: JointWiring) -> None:
        super().__init__(mixing.input_dim, mixing.context_dim)
        self.mixing = mixing

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps the channels of each pixel by W."""
        return self._map(self._checked(x, context, "x"), context, "forward")

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps the channels of each pixel by the inverse of W."""
        return self._map(self._checked(y, context, "y"), context, "inverse")

    def _map(
        self, images: Tensor, context: Tensor | None, direction: Literal["forward", "inverse"]
    ) -> tuple[Tensor, Tensor]:
        params = self.mixing._params(context)
        with without_autocast(images):
            wide = widen(images)
            weight, log_det = self._matrix(params, wide, direction)
            y = at_each_pixel(weight, wide)
        ladj = log_det * (images.shape[-2] * images.shape[-1])
        return narrow(y, images.dtype), ladj.to(images.dtype).expand(y.shape[:-3])

    def _matrix(
        self, params: Params, like: Tensor, direction: Literal["forward", "inverse"]
    ) -> tuple[Tensor, Tensor]:
        """W or its inverse, ``(*context_batch, C, C)``, with its log-determinant."""
        bijection = self.mixing.bijection
        if direction == "forward" and isinstance(bijection, PLUWeight) and not self.context_dim:
            factors, order = params["factors"], params["permutation"]
            signs = params["signs"].to(factors.dtype)
            weight, log_det = _own_gradient.apply(PLUProduct(), factors, order, signs)
            return weight, log_det
        eye = torch.eye(self.channels, dtype=like.dtype, device=like.device)
        run = bijection.forward if direction == "forward" else bijection.inverse
        weight, log_dets = run(eye, params)  # the latter (*context_batch, 1)
        return weight, log_dets[..., 0]


def at_each_pixel(weight: Tensor, images: Tensor) -> Tensor:
    """The product of ``(*sets, C, C)`` and ``(*batch, C, H, W)``, their batches broadcast."""
    if weight.ndim == 2:  # one product for all, best with a pixel's channels side by side
        return nn.functional.linear(images.movedim(-3, -1), weight).movedim(-1, -3)
    return (weight @ images.flatten(-2)).unflatten(-1, images.shape[-2:])
