"""One level of a Haar wavelet transform of images."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from pyro_nf.transforms._images.pixel_blocks import PixelBlocks, depth_to_space


@final
class HaarDownsampling(PixelBlocks):
    r"""Orthonormal Haar wavelets of 2×2 blocks, :math:`(C, H, W) \to (4C, H/2, W/2)`.

    With the pixels a, b above c, d in each block of each channel:

    .. math::
        \tfrac12 (a + b + c + d), \quad \tfrac12 (a - b + c - d), \quad
        \tfrac12 (a + b - c - d), \quad \tfrac12 (a - b - c + d)

    These are its four coefficients: twice its mean, then its horizontal, vertical and diagonal
    detail. The first C channels of y are the means, an image at half the resolution; the next C
    each are a kind of detail. So a cut along the channels separates coarse from fine, which
    one after :class:`Squeeze` does not.

    Orthogonal: log-determinant 0, and white noise stays white. Either direction costs 2 additions
    a number. Downsampling is base -> data here; ``HaarDownsampling().inv`` goes up.

    Raises:
        ValueError: In use, if height or width is odd, or, from data to base, the channels no
            multiple of 4.

    References:
        Wavelet Flow: Fast Training of High Resolution Normalizing Flows (Yu et al., 2020),
        arXiv:2010.13821; Guided Image Generation with Conditional Invertible Neural Networks
        (Ardizzone et al., 2019), arXiv:1907.02392.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import HaarDownsampling
        >>> y, ladj = HaarDownsampling().forward_and_ladj(torch.ones(1, 4, 4))
        >>> y[:, 0, 0], ladj  # a constant image has no details
        (tensor([2., 0., 0., 0.]), tensor(0.))
        >>> HaarDownsampling().inv.forward_shape((8, 4, 4, 4))
        torch.Size([8, 1, 8, 8])
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps pixels to coefficients."""
        x = self._checked(x, context, "x")
        self._forward_shape(x.shape)
        corners = [x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return torch.cat(_haar(*corners), -3), x.new_zeros(x.shape[:-3])

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps coefficients to pixels."""
        y = self._checked(y, context, "y")
        self._inverse_shape(y.shape)
        corners = torch.stack(_haar(*y.chunk(4, -3)), -3)  # (*batch, C, 4, H/2, W/2)
        return depth_to_space(corners.flatten(-4, -3), 2), y.new_zeros(y.shape[:-3])

    def _forward_shape(self, shape: torch.Size) -> torch.Size:
        return self._small(shape, "x")

    def _inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self._large(shape, "y")

    def extra_repr(self) -> str:
        """Nothing: there are no sizes."""
        return ""


def _haar(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four coefficients of the pixels a, b above c, d; symmetric, so its own inverse."""
    above, below = a + b, c + d
    above_detail, below_detail = a - b, c - d
    return (
        (above + below) / 2,
        (above_detail + below_detail) / 2,
        (above - below) / 2,
        (above_detail - below_detail) / 2,
    )
