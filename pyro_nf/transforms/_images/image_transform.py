"""What every layer of images checks and knows: channels, and rows of images."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_nf._checks import non_negative_int, positive_int
from pyro_nf.transforms._contract.boundary import check_context, check_dtype, check_tensor
from pyro_nf.transforms._contract.features import common_batch
from pyro_nf.transforms._contract.protocol import FlowTransform

IMAGES = constraints.independent(constraints.real, 3)


class ImageTransform(FlowTransform):
    """A layer whose events are images ``(channels, height, width)`` (abstract).

    Args:
        channels: Number C of channels on the base side.
        context_dim: Size of the context; 0 for none.
    """

    domain = codomain = IMAGES

    def __init__(self, channels: int, context_dim: int = 0) -> None:
        super().__init__()
        owner = type(self).__name__
        self.channels = positive_int(owner, "channels", channels)
        self.context_dim = non_negative_int(owner, "context_dim", context_dim)

    def _checked(self, x: Tensor, context: Tensor | None, name: str) -> Tensor:
        """Checks what enters.

        Args:
            x: Shape ``(*batch, C, H, W)``.
            context: Shape ``(*context_batch, context_dim)``, or None.
            name: What the layer calls the input, "x" or "y".

        Returns:
            The images, their batch broadcast with the context's.
        """
        owner = type(self).__name__
        check_tensor(owner, name, x)
        self._check_image(x.shape, name)
        check_context(self, context)
        check_dtype(owner, name, x, self, "layer")
        if context is not None:
            check_dtype(owner, "context", context, self, "layer")
            if context.shape[:-1] != x.shape[:-3]:
                batch = common_batch(self, x, context, name, event_dim=3)
                x = x.expand(*batch, *x.shape[-3:])
        return x

    def _rows(self, x: Tensor, context: Tensor | None, name: str) -> tuple[Tensor, torch.Size]:
        """Checks what enters, as :meth:`_checked` does, and brings images to rows.

        Returns:
            The images ``(N, C, H, W)``, and the batch, broadcast with the context's, of N images.
        """
        x = self._checked(x, context, name)
        batch = x.shape[:-3]
        rows = x if len(batch) == 1 else x.reshape(math.prod(batch), *x.shape[-3:])
        return rows, batch

    def _check_image(self, shape: torch.Size, name: str) -> torch.Size:
        """Returns the shape if it is one of images that the layer takes, else raises."""
        if len(shape) < 3 or shape[-3] != self.channels:
            raise ValueError(
                f"{type(self).__name__}(channels={self.channels}) got {name} of shape "
                f"{tuple(shape)}; expected shape (*batch, {self.channels}, height, width)."
            )
        if 0 in shape[-2:]:
            raise ValueError(
                f"{type(self).__name__} got {name} of shape {tuple(shape)}, images without a "
                "pixel. Pass a height and a width of at least 1; the batch may be empty."
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


def as_pass(rows: Tensor, ladj: Tensor, batch: torch.Size) -> tuple[Tensor, Tensor]:
    """The images ``(N, C, H, W)`` and ``(N,)`` log-determinants, or one for all, in the batch."""
    if len(batch) == ladj.ndim == 1 and ladj.dtype == rows.dtype:
        return rows, ladj
    images = rows.reshape(*batch, *rows.shape[1:])
    if ladj.ndim == 0:
        return images, ladj.to(rows.dtype).expand(batch)
    return images, ladj.to(rows.dtype).reshape(batch)
