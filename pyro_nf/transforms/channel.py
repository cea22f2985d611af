"""Invertible 1×1 convolutions of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_nf._checks import positive_int
from pyro_nf.bijections import LULinear
from pyro_nf.transforms._contract.boundary import check_context, check_tensor
from pyro_nf.transforms._contract.protocol import FlowTransform
from pyro_nf.transforms.joint import Joint
from pyro_nf.transforms.permutation import Permutation


@final
class GeneralizedChannelPermute(FlowTransform):
    r"""One linear map of the channels at every pixel, an invertible 1×1 convolution.

    .. math:: y_{:,h,w} = W x_{:,h,w}, \qquad W = P \operatorname{diag}(e^s)(I + L)(I + U), \qquad
        \log|\det dy/dx| = H W \sum_i s_i

    A permutation P of the channels, made trainable. Events are images (C, H, W) of any height and
    width. Either direction costs O(C²) a pixel, in one product or solve for all pixels.

    Args:
        channels: Number of channels C.
        permutation: P, the channels in the wanted order; None for what ``seed`` says.
        seed: Seed of the generator that draws P; None takes the identity, where the layer starts.
        **network: ``context_dim``, ``hidden_dims``, ``activation`` and ``residual``, as
            :class:`~pyro_nf.transforms.Joint` takes them: the context changes W.

    Raises:
        TypeError, ValueError: If a size is no positive integer.

    References:
        Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
        arXiv 1807.03039, section 3.2.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import GeneralizedChannelPermute
        >>> layer = GeneralizedChannelPermute(3, seed=0)
        >>> y, ladj = layer.forward_and_ladj(torch.zeros(5, 3, 8, 8))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3, 8, 8]), torch.Size([5]))
    """

    domain = codomain = constraints.independent(constraints.real, 3)

    def __init__(
        self,
        channels: int = 3,
        permutation: Sequence[int] | Tensor | None = None,
        *,
        seed: int | None = None,
        **network: Any,
    ) -> None:
        super().__init__()
        self.channels = positive_int("GeneralizedChannelPermute", "channels", channels)
        self.mixing = Joint(LULinear("none", seed), channels, **network)
        if permutation is not None:
            order = Permutation(permutation).permutation
            if len(order) != channels:
                raise ValueError(
                    f"GeneralizedChannelPermute(channels={channels}) got a permutation of "
                    f"{len(order)}. Pass each channel once."
                )
            self.mixing.permutation = order
        self.context_dim = self.mixing.context_dim

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps the channels of each pixel by W."""
        rows = self._pixel_rows(x, context, "x")
        return _as_images(*self.mixing.forward_and_ladj(rows, context))

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps the channels of each pixel by the inverse of W."""
        rows = self._pixel_rows(y, context, "y")
        return _as_images(*self.mixing.inverse_and_ladj(rows, context))

    def _pixel_rows(self, images: Tensor, context: Tensor | None, name: str) -> Tensor:
        """The images as rows of channels, ``(H, W, *batch, C)``; pixels share their context."""
        check_tensor(type(self).__name__, name, images)
        self._check_image(images.shape, name)
        check_context(self, context)
        batch = images.shape[:-3]
        if context is not None and context.ndim - 1 > len(batch):
            # Else the dimensions of the context's batch would meet those of the pixels.
            lead = (1,) * (context.ndim - 1 - len(batch))
            images = images.reshape((*lead, *images.shape))
        return images.movedim((-2, -1, -3), (0, 1, -1))

    def _check_image(self, shape: torch.Size, name: str) -> torch.Size:
        if len(shape) < 3 or shape[-3] != self.channels:
            raise ValueError(
                f"GeneralizedChannelPermute(channels={self.channels}) got {name} of shape "
                f"{tuple(shape)}; expected shape (*batch, {self.channels}, height, width)."
            )
        return shape

    def _forward_shape(self, shape: torch.Size) -> torch.Size:
        return self._check_image(shape, "x")

    def _inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self._check_image(shape, "y")

    def extra_repr(self) -> str:
        """The sizes, for ``repr``."""
        context = f", context_dim={self.context_dim}" if self.context_dim else ""
        return f"channels={self.channels}{context}"


def _as_images(rows: Tensor, ladj: Tensor) -> tuple[Tensor, Tensor]:
    """Images ``(*batch, C, H, W)`` and the sum over their pixels."""
    return rows.movedim((0, 1, -1), (-2, -1, -3)), ladj.sum((0, 1))
