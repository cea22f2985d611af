"""Between pixels and channels: space to depth and back."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from pyro_nf.transforms._images.pixel_blocks import PixelBlocks, depth_to_space, space_to_depth


@final
class Squeeze(PixelBlocks):
    r"""Space to depth, :math:`(C, H, W) \to (f^2 C, H/f, W/f)`: each f×f block becomes channels.

    .. math:: y_{f^2 c + f i + j,\, h,\, w} = x_{c,\, f h + i,\, f w + j}

    A reordering, as torch's ``pixel_unshuffle``: log-determinant 0, one copy in either direction.
    From base to data a multi-level flow goes the other way, by :class:`Unsqueeze`.

    Args:
        factor: Side f of a block, in pixels.

    Raises:
        TypeError, ValueError: If ``factor`` is no positive integer; in use, if height or width is
            no multiple of it, or, from data to base, the channels none of its square.

    References:
        Density Estimation Using Real NVP (Dinh et al., 2016), arXiv:1605.08803, section 3.6.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import Squeeze
        >>> x = torch.arange(16.0).view(1, 4, 4)
        >>> y, ladj = Squeeze().forward_and_ladj(x)
        >>> y.shape, ladj
        (torch.Size([4, 2, 2]), tensor(0.))
        >>> y[:, 0, 0]
        tensor([0., 1., 4., 5.])
    """

    def __init__(self, factor: int = 2) -> None:
        super().__init__(factor)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps blocks of pixels to channels."""
        x = self._checked(x, context, "x")
        self._forward_shape(x.shape)
        return space_to_depth(x, self.factor), x.new_zeros(x.shape[:-3])

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps channels to blocks of pixels."""
        y = self._checked(y, context, "y")
        self._inverse_shape(y.shape)
        return depth_to_space(y, self.factor), y.new_zeros(y.shape[:-3])

    def _forward_shape(self, shape: torch.Size) -> torch.Size:
        return self._small(shape, "x")

    def _inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self._large(shape, "y")


@final
class Unsqueeze(PixelBlocks):
    r"""Depth to space, :math:`(f^2 C, H, W) \to (C, f H, f W)`: f² channels become an f×f block.

    The inverse of :class:`Squeeze` as a layer of its own, torch's ``pixel_shuffle``: what a level
    of a multi-level flow does from base to data. Log-determinant 0, one copy in either direction.

    Args:
        factor: Side f of a block, in pixels.

    Raises:
        TypeError, ValueError: If ``factor`` is no positive integer; in use, if the channels are no
            multiple of its square, or, from data to base, height or width none of it.

    References:
        Density Estimation Using Real NVP (Dinh et al., 2016), arXiv:1605.08803, section 3.6.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import Unsqueeze
        >>> y, ladj = Unsqueeze().forward_and_ladj(torch.arange(4.0).view(4, 1, 1))
        >>> y
        tensor([[[0., 1.],
                 [2., 3.]]])
    """

    def __init__(self, factor: int = 2) -> None:
        super().__init__(factor)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps channels to blocks of pixels."""
        x = self._checked(x, context, "x")
        self._forward_shape(x.shape)
        return depth_to_space(x, self.factor), x.new_zeros(x.shape[:-3])

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps blocks of pixels to channels."""
        y = self._checked(y, context, "y")
        self._inverse_shape(y.shape)
        return space_to_depth(y, self.factor), y.new_zeros(y.shape[:-3])

    def _forward_shape(self, shape: torch.Size) -> torch.Size:
        return self._large(shape, "x")

    def _inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self._small(shape, "y")
