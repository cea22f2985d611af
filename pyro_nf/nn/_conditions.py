"""How a context enters a network of images: channels are shifted and scaled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from pyro_nf._checks import checked_image_shape, non_negative_int
from pyro_nf.nn._linear import check_context


class ContextSize(NamedTuple):
    """The size of a context.

    Attributes:
        dim: Its length; 0 for none.
        shape: ``(channels, height, width)`` if it is a flattened feature map, else None.
    """

    dim: int
    shape: tuple[int, int, int] | None


class Conditions(NamedTuple):
    """A context as the layers read it.

    Attributes:
        rows: One row for each of the context: vectors ``(M, context_dim)`` or maps of the images'
            size ``(M, channels, H, W)``.
        context_batch: The shape of the M rows, which broadcasts to
        batch: the shape of the images' rows, aligned right.
    """

    rows: Tensor
    context_batch: torch.Size
    batch: torch.Size


def context_size(owner: str, context_dim: int, context_shape: Sequence[int] | None) -> ContextSize:
    """Checks the two ways of giving a context's size."""
    non_negative_int(owner, "context_dim", context_dim)
    if context_shape is None:
        return ContextSize(context_dim, None)
    shape = checked_image_shape(owner, "context_shape", context_shape)
    size = math.prod(shape)
    if context_dim not in (0, size):
        raise ValueError(
            f"{owner} got context_dim={context_dim} and context_shape={shape}, which has {size} "
            "numbers. Leave context_dim out."
        )
    return ContextSize(size, shape)


def read_context(
    owner: str,
    size: ContextSize,
    context: Tensor | None,
    batch: torch.Size,
    pixels: tuple[int, int],
) -> Conditions | None:
    """Checks a context for a batch of images, and brings a map to their height and width.

    Each pixel of the new size takes the mean of the pixels that it covers: of a larger map the
    average, of a smaller one the nearest pixels.
    """
    check_context(owner, context, size.dim)
    if context is None:
        return None
    context_batch = context.shape[:-1]
    _check_batches(owner, context_batch, batch)
    if size.shape is None:
        rows = context.reshape(math.prod(context_batch), size.dim)
    else:
        rows = context.reshape(math.prod(context_batch), *size.shape)
        if rows.shape[-2:] != pixels:
            rows = nn.functional.adaptive_avg_pool2d(rows, pixels)
    return Conditions(rows, context_batch, batch)


def _check_batches(owner: str, context_batch: torch.Size, batch: torch.Size) -> None:
    lead = len(batch) - len(context_batch)
    if lead < 0 or any(a not in (1, b) for a, b in zip(context_batch, batch[lead:], strict=True)):
        raise ValueError(
            f"{owner} got a context of batch shape {tuple(context_batch)} for images of batch "
            f"shape {tuple(batch)}. Give one context for each image or for all; if its batch is "
            "the larger, expand x first."
        )


class ContextReader(nn.Module):
    r"""Numbers for each channel, made of the context, once for each of its rows.

    Of a vector they are affine in it and the same for all pixels; of a feature map they are
    images, by a convolution of it with kernels of 3×3. The weights start at 0.

    Args:
        channels: Number of channels.
        context: The size of the context.
    """

    def __init__(self, channels: int, context: ContextSize) -> None:
        super().__init__()
        self.reader: nn.Linear | nn.Conv2d = (
            nn.Linear(context.dim, channels)
            if context.shape is None
            else same_conv(context.shape[0], channels, 3)
        )
        for parameter in self.reader.parameters():
            nn.init.zeros_(parameter)

    def forward(self, conditions: Conditions) -> Tensor:
        """The numbers, shape ``(*context_batch, 1, 1, channels)`` or ``(..., H, W, channels)``."""
        made = self.reader(conditions.rows)
        made = made[:, None, None] if made.ndim == 2 else made.movedim(1, -1)
        return made.reshape(*conditions.context_batch, *made.shape[1:])


class Modulation(nn.Module):
    r"""Scale and shift of the channels by the context, :math:`h \odot s(c) + t(c)`.

    Fresh, s is 1 and t is 0.

    Args:
        channels: Channels of h.
        context: The size of the context.
    """

    def __init__(self, channels: int, context: ContextSize) -> None:
        super().__init__()
        self.numbers = ContextReader(2 * channels, context)
        with torch.no_grad():
            cast("Tensor", self.numbers.reader.bias)[:channels] = 1

    def forward(self, h: Tensor, conditions: Conditions) -> Tensor:
        """Maps h ``(N, channels, H, W)``, rows of the batch."""
        scale, shift = self.numbers(conditions).chunk(2, dim=-1)
        pixels = h.movedim(1, -1)
        images = pixels.reshape(*conditions.batch, *pixels.shape[1:])  # (*batch, H, W, channels)
        return torch.addcmul(shift, images, scale).reshape(pixels.shape).movedim(-1, 1)


class ConditionedConv(nn.Module):
    """A convolution that keeps the image's size, its channels modulated by the context.

    Args:
        input_channels: Channels of x.
        output_channels: Channels of the result.
        kernel_size: Odd side length, in pixels.
        context: The size of the context.
        zero_init: Whether the convolution starts at 0.
    """

    def __init__(
        self,
        input_channels: int,
        output_channels: int,
        kernel_size: int,
        context: ContextSize,
        *,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.conv = same_conv(input_channels, output_channels, kernel_size, zero_init=zero_init)
        self.modulation = Modulation(output_channels, context) if context.dim else None

    def forward(self, x: Tensor, conditions: Conditions | None) -> Tensor:
        """Maps x ``(N, input_channels, H, W)`` to ``(N, output_channels, H, W)``."""
        h = self.conv(x)
        if self.modulation is None or conditions is None:
            return h
        return self.modulation(h, conditions)


def same_conv(
    input_channels: int, output_channels: int, kernel_size: int, *, zero_init: bool = False
) -> nn.Conv2d:
    """Creates a convolution that keeps the image's size, zeros beyond its border."""
    kind = PixelLinear if kernel_size == 1 else nn.Conv2d
    conv = kind(input_channels, output_channels, kernel_size, padding=kernel_size // 2)
    if zero_init:
        for parameter in conv.parameters():
            nn.init.zeros_(parameter)
    return conv


class PixelLinear(nn.Conv2d):
    """A 1×1 convolution as one product of matrices: half the time of a convolution on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps x ``(N, input_channels, H, W)``, best with the channels side by side in memory."""
        pixels = x.permute(0, 2, 3, 1)
        return nn.functional.linear(pixels, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
