"""Fixed maps between blocks of f×f pixels and f² times as many channels."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_nf._checks import positive_int
from pyro_nf.transforms._contract.boundary import check_context, check_tensor
from pyro_nf.transforms._contract.protocol import FlowTransform
from pyro_nf.transforms._images.image_transform import IMAGES


class PixelBlocks(FlowTransform):
    """An orthogonal map of each f×f block of pixels, of images of any size (abstract).

    *Small* images have H/f × W/f pixels and f²C channels, *large* ones H × W and C.

    Args:
        factor: Side f of a block, in pixels.
    """

    domain = codomain = IMAGES

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = positive_int(type(self).__name__, "factor", factor)

    def _checked(self, x: Tensor, context: Tensor | None, name: str) -> Tensor:
        """Returns what enters if it is a tensor and no context came with it; no shapes yet."""
        check_tensor(type(self).__name__, name, x)
        check_context(self, context)
        return x

    def _small(self, large: torch.Size, name: str) -> torch.Size:
        """The shape of small images from that of large ones, or raises."""
        self._check_image(large, name)
        f, (*batch, channels, height, width) = self.factor, large
        if height % f or width % f:
            raise ValueError(
                f"{type(self).__name__} of {f}×{f} blocks got {name} of shape {tuple(large)}, "
                f"whose height {height} or width {width} is no multiple of {f}. Pad or crop the "
                f"images to {height + -height % f}×{width + -width % f}, say."
            )
        return torch.Size([*batch, f * f * channels, height // f, width // f])

    def _large(self, small: torch.Size, name: str) -> torch.Size:
        """The shape of large images from that of small ones, or raises."""
        self._check_image(small, name)
        f, (*batch, channels, height, width) = self.factor, small
        if channels % (f * f):
            raise ValueError(
                f"{type(self).__name__} of {f}×{f} blocks got {name} of shape {tuple(small)}, "
                f"whose {channels} channels are no multiple of {f * f}. Pass images of "
                f"{channels + -channels % (f * f)} channels, say."
            )
        return torch.Size([*batch, channels // (f * f), f * height, f * width])

    def _check_image(self, shape: torch.Size, name: str) -> None:
        if len(shape) < 3:
            raise ValueError(
                f"{type(self).__name__} got {name} of shape {tuple(shape)}; expected shape "
                "(*batch, channels, height, width)."
            )

    def extra_repr(self) -> str:
        """The side of a block, for ``repr``."""
        return f"factor={self.factor}"


def space_to_depth(large: Tensor, factor: int) -> Tensor:
    """``(*batch, C, fH, fW)`` as ``(*batch, C·f·f, H, W)``: torch's ``pixel_unshuffle``."""
    *batch, channels, height, width = large.shape
    f, h, w = factor, height // factor, width // factor
    blocks = large.reshape(*batch, channels, h, f, w, f).movedim((-3, -1), (-4, -3))
    return blocks.reshape(*batch, channels * f * f, h, w)


def depth_to_space(small: Tensor, factor: int) -> Tensor:
    """``(*batch, C·f·f, H, W)`` as ``(*batch, C, fH, fW)``: torch's ``pixel_shuffle``."""
    *batch, channels, h, w = small.shape
    f, c = factor, channels // factor**2
    blocks = small.reshape(*batch, c, f, f, h, w).movedim((-4, -3), (-3, -1))
    return blocks.reshape(*batch, c, h * f, w * f)
