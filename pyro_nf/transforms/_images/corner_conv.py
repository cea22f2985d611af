r"""Convolutions that read one corner of each pixel's surroundings, and their inverses.

.. math:: (A u)_{h,w} = u_{h,w} + \sum_{(a,b) \ne (0,0)} K_{a,b}\, u_{h-a,\, w-b},
    \qquad 0 \le a, b < q

reads the pixels above and to the left, zero outside of the image. In raster order A is block
triangular with unit diagonal: invertible by substitution, with determinant 1. Pixels with equal
h + w do not read each other, so the substitution takes H + W − 1 steps, one antidiagonal each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from pyro_nf._recorded import must_record, recorded_gradient, without_autocast
from pyro_nf._tracing import is_traced


def offsets(side: int) -> list[tuple[int, int]]:
    """The (a, b) of the taps, row by row, without (0, 0)."""
    return [(a, b) for a in range(side) for b in range(side)][1:]


def convolve(taps: Tensor, mixing: Tensor, u: Tensor) -> Tensor:
    """Computes T A u.

    Args:
        taps: K, shape ``(q² - 1, C, C)``.
        mixing: T, a matrix of the channels ``(C, C)``.
        u: Images ``(N, C, H, W)``.
    """
    side = _side(taps)
    center = torch.eye(mixing.shape[0], dtype=taps.dtype, device=taps.device)
    kernel = (mixing @ torch.cat([center.unsqueeze(0), taps])).movedim(0, -1)  # (C, C, q²)
    kernel = kernel.unflatten(-1, (side, side)).flip(-2, -1)  # torch's reads the corner first
    return conv2d(pad(u, (side - 1, 0, side - 1, 0)), kernel)


def solve(taps: Tensor, y: Tensor) -> Tensor:
    """Solves A u = y for the images u ``(N, C, H, W)``; the arguments are :func:`convolve`'s.

    Exact, and so is its gradient: the substitution for the transposed map, without a graph of the
    steps. Second derivatives, ``torch.func``, forward mode and compilers follow the steps.
    """
    return _substitute(taps, y) if is_traced() else _Solution.apply(taps, y)


class _Solution(torch.autograd.Function):
    """The substitution, differentiated by the transposed one."""

    @staticmethod
    def forward(ctx: Any, taps: Tensor, y: Tensor) -> Tensor:
        u = _substitute(taps, y)
        ctx.save_for_backward(taps, y, u)
        return u

    @staticmethod
    @without_autocast
    def backward(ctx: Any, u_grad: Tensor) -> tuple[Tensor | None, ...]:
        """With v = A⁻ᵀ ∂u: ∂y = v, and ∂K is minus the correlation of v with u."""
        taps, y, u = ctx.saved_tensors
        if must_record(u_grad):
            record = lambda *inputs: (_substitute(*inputs),)  # noqa: E731
            return tuple(recorded_gradient(record, (taps, y), (u_grad,)))
        # Aᵀ reads below and to the right: turned by 180° it is of the same form as A.
        v = turned(_substitute(taps.mT, turned(u_grad)))
        height, width = u.shape[-2:]
        taps_grad = [
            torch.einsum(
                "nchw,ndhw->cd",
                v[..., a:, b:],
                u[..., : max(height - a, 0), : max(width - b, 0)],
            )
            for a, b in offsets(_side(taps))
        ]
        return -torch.stack(taps_grad), v


def turned(images: Tensor) -> Tensor:
    """Images turned by 180°."""
    return images.flip(-2, -1)


def _side(taps: Tensor) -> int:
    return round((taps.shape[0] + 1) ** 0.5)


def _substitute(taps: Tensor, y: Tensor) -> Tensor:
    """Solves antidiagonal by antidiagonal, out of place.

    A diagonal holds the pixels (h, t - h) as ``(C, q - 1 + H, N)``, with zeros in the rows above
    the image and where t - h is outside of it. So that of step t is

        y_t - sum over (a, b) of K[a, b] (diagonal t - a - b, moved down by a rows).
    """
    side, (_, channels, height, width) = _side(taps), y.shape
    margin = side - 1
    # Sorted by a + b, so that those that reach a diagonal before the first come last.
    order = sorted(range(taps.shape[0]), key=lambda i: sum(offsets(side)[i]))
    reach = [offsets(side)[i] for i in order]
    weight = torch.cat([taps[i] for i in order], 1)  # (C, (q² - 1) C)
    diagonals: list[Tensor] = []
    for t, y_t in enumerate(_skewed(y).unbind(2)):  # (C, H, N)
        first, stop = max(0, t - width + 1), min(t + 1, height)
        solved = y_t[:, first:stop]
        rows = slice(margin + first, margin + stop)
        sources = [
            diagonals[t - a - b][:, rows.start - a : rows.stop - a] for a, b in reach if a + b <= t
        ]
        if sources:
            known = torch.cat(sources).flatten(1)  # (taps · C, pixels · N)
            change = torch.addmm(
                solved.flatten(1), weight[:, : len(sources) * channels], known, alpha=-1
            )
            solved = change.view(solved.shape)
        diagonals.append(pad(solved, (0, 0, rows.start, height - stop)))
    return _straightened(torch.stack(diagonals, 2)[:, margin:], width)


def _skewed(images: Tensor) -> Tensor:
    """Images ``(N, C, H, W)`` as ``(C, H, H + W - 1, N)``, row h moved to the right by h."""
    _, channels, height, width = images.shape
    rows = pad(images.permute(1, 2, 3, 0), (0, 0, 0, height))  # (C, H, W + H, N)
    # One number less in each row: the next begins one place further to the right.
    flat = rows.flatten(1, 2)[:, : height * (width + height - 1)]
    return flat.reshape(channels, height, width + height - 1, images.shape[0])


def _straightened(skewed: Tensor, width: int) -> Tensor:
    """Undoes :func:`_skewed`."""
    channels, height, _, count = skewed.shape
    flat = pad(skewed.flatten(1, 2), (0, 0, 0, height))
    rows = flat.reshape(channels, height, width + height, count)
    return rows[:, :, :width].permute(3, 0, 1, 2)
