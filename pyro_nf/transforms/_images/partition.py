"""How a coupling of images parts them into what is kept and what is moved."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

Parity = Literal[0, 1]
PARITIES: tuple[Parity, Parity] = (0, 1)


class Partition2d(Protocol):
    """Parts images whose channels lie last, ``(N, H, W, C)``.

    Attributes:
        read_channels: Channels of what the network reads.
        moved_channels: Channels of what is moved, for which the network makes parameters.
    """

    read_channels: int
    moved_channels: int

    def read(self, pixels: Tensor) -> Tensor:
        """What the network reads, an image."""

    def add_read(self, grad: Tensor, read_grad: Tensor) -> Tensor:
        """Adds the gradient of what was read to that of the images, in place."""

    def moved(self, pixels: Tensor) -> Tensor:
        """The values to be moved, ``(N, *places, moved_channels)``."""

    def join(self, pixels: Tensor, moved: Tensor) -> Tensor:
        """The images, with the moved values in their places."""

    def pick(self, made: Tensor) -> Tensor:
        """Of a network's output ``(N, H, W, K)`` the places of the moved values."""

    def put(self, picked: Tensor, like: Tensor) -> Tensor:
        """Undoes :meth:`pick`, with zeros in the other places of the images ``like``."""


class ChannelHalves:
    """Keeps the first ⌊C/2⌋ channels (parity 0), or moves the first ⌈C/2⌉ (parity 1).

    Args:
        channels: Number C of channels, at least 2.
        parity: 0 or 1.
    """

    def __init__(self, channels: int, parity: Parity) -> None:
        self.read_channels = channels // 2
        self.moved_channels = channels - self.read_channels
        self.keeps_first = parity == 0

    def read(self, pixels: Tensor) -> Tensor:
        """A slice."""
        count = self.read_channels
        return pixels[..., :count] if self.keeps_first else pixels[..., -count:]

    def add_read(self, grad: Tensor, read_grad: Tensor) -> Tensor:
        """On the slice."""
        self.read(grad).add_(read_grad)
        return grad

    def moved(self, pixels: Tensor) -> Tensor:
        """The other slice."""
        count = self.moved_channels
        return pixels[..., -count:] if self.keeps_first else pixels[..., :count]

    def join(self, pixels: Tensor, moved: Tensor) -> Tensor:
        """One concatenation."""
        kept = self.read(pixels)
        return torch.cat([kept, moved] if self.keeps_first else [moved, kept], -1)

    def pick(self, made: Tensor) -> Tensor:
        """All: the network makes them for the moved channels alone."""
        return made

    def put(self, picked: Tensor, like: Tensor) -> Tensor:
        """All."""
        del like
        return picked


class Checkerboard:
    """Keeps every second pixel, like the squares of one colour of a board.

    The network reads the whole image with the others at 0. These are moved as a tensor of their
    own: of an even width with half as many columns, ``(N, H, W/2, C)``; of an odd one every second
    pixel of the flattened image, ``(N, pixels, C)``.

    Args:
        channels: Number of channels.
        parity: Whether the first pixel is moved (1) or kept (0).
    """

    def __init__(self, channels: int, parity: Parity) -> None:
        self.read_channels = self.moved_channels = channels
        self.parity = parity

    def read(self, pixels: Tensor) -> Tensor:
        """The image with the moved pixels at 0."""
        return pixels * self._kept(pixels)

    def add_read(self, grad: Tensor, read_grad: Tensor) -> Tensor:
        """On the kept pixels."""
        return grad.addcmul_(read_grad, self._kept(grad))

    def _kept(self, pixels: Tensor) -> Tensor:
        """1 at the kept pixels and 0 at the moved ones, ``(H, W, 1)``."""
        height, width = (torch.arange(n, device=pixels.device) for n in pixels.shape[-3:-1])
        kept = (height[:, None] + width + self.parity) % 2 == 0
        return kept[..., None].to(pixels.dtype)

    def moved(self, pixels: Tensor) -> Tensor:
        """Every second pixel."""
        return self._colour(pixels, self.parity)

    pick = moved

    def join(self, pixels: Tensor, moved: Tensor) -> Tensor:
        """Writes the moved pixels between the kept ones."""
        return self._woven(self._colour(pixels, 1 - self.parity), moved, pixels)

    def put(self, picked: Tensor, like: Tensor) -> Tensor:
        """Writes the picked places between zeros."""
        kept = self._colour(like, 1 - self.parity)
        rest = picked.new_zeros(*kept.shape[:-1], picked.shape[-1])
        return self._woven(rest, picked, like)

    def _colour(self, pixels: Tensor, first: int) -> Tensor:
        """Every second pixel, the first of the image if ``first`` is 1."""
        if pixels.shape[-2] % 2:
            return pixels.flatten(-3, -2)[..., 1 - first :: 2, :]
        left, right = pixels.unflatten(-2, (-1, 2)).unbind(-2)
        return torch.where(self._begins(pixels, first), left, right)

    def _woven(self, kept: Tensor, moved: Tensor, like: Tensor) -> Tensor:
        """An image of its two colours."""
        if like.shape[-2] % 2:
            first, second = (moved, kept) if self.parity else (kept, moved)
            count = second.shape[-2]  # one fewer of an odd number of pixels
            flat = torch.stack([first[..., :count, :], second], -2).flatten(-3, -2)
            if first.shape[-2] > count:
                flat = torch.cat([flat, first[..., count:, :]], -2)
            return flat.unflatten(-2, like.shape[-3:-1])
        begins = self._begins(like, self.parity)
        left, right = torch.where(begins, moved, kept), torch.where(begins, kept, moved)
        return torch.stack([left, right], -2).flatten(-3, -2)

    @staticmethod
    def _begins(pixels: Tensor, first: int) -> Tensor:
        """Whether a row begins with a pixel of the colour, ``(H, 1, 1)``."""
        height = torch.arange(pixels.shape[-3], device=pixels.device)
        return ((height + first) % 2 == 1)[:, None, None]
