"""Self-attention over the pixels of an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyro_nf.nn._positions import positions


class GatedAttention(nn.Module):
    r"""Multi-head self-attention over all pixels, gated: :math:`A \odot σ(B)`.

    The pixels' positions enter as sinusoids added to what is read, computed for whatever size the
    image has. (A, B) is an affine map of :math:`\mathrm{softmax}(Q K^\top / \sqrt d) V`, heads
    side by side.

    Plain products and a softmax: torch's fused kernels for it have no second derivatives. So the
    weights of all pairs are kept for the gradient, O(heads (HW)²) numbers an image.

    Args:
        channels: Channels of the images.
        heads: Number of heads; divides the channels.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.read = nn.Linear(channels, 3 * channels)
        self.gate = nn.Linear(channels, 2 * channels)

    def forward(self, h: Tensor) -> Tensor:
        """Maps h ``(N, H, W, channels)`` to the same shape."""
        count, height, width, channels = h.shape
        placed = h + positions(height, width, channels, h)
        split = (count, height * width, 3, self.heads, channels // self.heads)
        query, key, value = self.read(placed).reshape(split).permute(2, 0, 3, 1, 4)
        # (N, heads, HW, channels / heads) each; the scale on the smallest factor
        query = query / math.sqrt(channels // self.heads)
        weights = torch.softmax(query @ key.mT, -1)
        mixed = (weights @ value).permute(0, 2, 1, 3).reshape(h.shape)
        return gated(self.gate(mixed))

    def extra_repr(self) -> str:
        """Shows the number of heads."""
        return f"heads={self.heads}"


def gated(pairs: Tensor) -> Tensor:
    """The first half of the last axis times the sigmoid of the second."""
    # Not torch's glu, whose forward mode does not map.
    values, gates = pairs.chunk(2, -1)
    return values * torch.sigmoid(gates)
