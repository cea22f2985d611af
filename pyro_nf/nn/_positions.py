"""Encodings of where a pixel lies."""

from __future__ import annotations

import torch
from torch import Tensor


def positions(rows: int, columns: int, channels: int, like: Tensor) -> Tensor:
    r"""Sinusoids of a pixel's row, then of its column, each in half of the channels.

    Channels 2i and 2i + 1 of a half are the sine and the cosine of :math:`p / 100^{2i/n}`, p the
    position and n the half's size.

    Args:
        rows: Height of the images.
        columns: Their width.
        channels: Number of channels.
        like: A tensor of the dtype and device wished for.

    Returns:
        Shape ``(rows, columns, channels)``.
    """
    down = _sinusoids(rows, channels - channels // 2, like)[:, None]
    across = _sinusoids(columns, channels // 2, like)[None]
    return torch.cat([down.expand(-1, columns, -1), across.expand(rows, -1, -1)], -1)


def _sinusoids(size: int, channels: int, like: Tensor) -> Tensor:
    position = torch.arange(size, dtype=like.dtype, device=like.device)[:, None]
    pair = torch.arange((channels + 1) // 2, dtype=like.dtype, device=like.device)
    angle = position * 100 ** (-2 * pair / max(1, channels))
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :channels]
