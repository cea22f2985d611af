"""A convolution that keeps the image's size, in the fastest of three forms, with its gradient.

Images have a pixel's channels side by side, ``(N, H, W, C)``; kernels ``(O, I, k, k)`` are square
and odd, with zeros beyond the border. A kernel of one pixel is a product of matrices. So is any
kernel on an image of few pixels P, as one matrix from all numbers of an image to all of its
results, ``(P I, P O)``: of 2×2 pixels it takes half to three quarters of a convolution's time on a
CPU, of 4×4 the same if it is small, and of more no less.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

aten: Any = torch.ops.aten

_FEW_PIXELS, _LEAST_IMAGES, _LARGEST_MATRIX = 4, 16, 2**15


def convolved(pixels: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """The results ``(N, H, W, O)``, in differentiable operations."""
    size = kernel.shape[-1]
    if size == 1:
        return F.linear(pixels, kernel.flatten(1), bias)
    if _is_small(pixels, kernel):
        rows, (n, height, width, _) = pixels.flatten(1), pixels.shape
        y = torch.addmm(bias.repeat(height * width), rows, _matrix(pixels, kernel))
        return y.view(n, height, width, len(bias))
    return F.conv2d(_images(pixels), kernel, bias, padding=size // 2).permute(0, 2, 3, 1)


def pulled_back(pixels: Tensor, kernel: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the images, the kernels and the bias from that of the results."""
    outputs, inputs, size, _ = kernel.shape
    if size > 1 and not _is_small(pixels, kernel):
        one, edge = [1, 1], [size // 2] * 2
        forms = one, edge, one, False, [0, 0], 1, [True] * 3
        images_grad, kernel_grad, bias_grad = aten.convolution_backward(
            _images(grad), _images(pixels), kernel, [outputs], *forms
        )
        return images_grad.permute(0, 2, 3, 1), kernel_grad, bias_grad
    bias_grad = grad.reshape(math.prod(grad.shape[:-1]), outputs).sum(0)
    if size == 1:
        rows, matrix = pixels.flatten(0, 2), kernel.flatten(1).t()
        grad = grad.flatten(0, 2)
        kernel_grad = (grad.t() @ rows).view(kernel.shape)
    else:
        rows, matrix = pixels.flatten(1), _matrix(pixels, kernel)
        grad = grad.flatten(1)
        count = pixels.shape[1] * pixels.shape[2]
        blocks = (rows.t() @ grad).view(count, inputs, count, outputs).transpose(1, 2)
        taps = _taps(pixels, size).t() @ blocks.reshape(count**2, inputs * outputs)
        kernel_grad = taps.view(size, size, inputs, outputs).permute(3, 2, 0, 1)
    return (grad @ matrix.t()).view(pixels.shape), kernel_grad, bias_grad


def _is_small(pixels: Tensor, kernel: Tensor) -> bool:
    """Whether a matrix for a whole image is the faster form, its making included."""
    count, outputs, inputs = pixels.shape[1] * pixels.shape[2], *kernel.shape[:2]
    if len(pixels) < _LEAST_IMAGES:
        return False
    return 0 < count <= _FEW_PIXELS or 0 < count**2 * inputs * outputs <= _LARGEST_MATRIX


def _images(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 3, 1, 2)


def _matrix(pixels: Tensor, kernel: Tensor) -> Tensor:
    """The convolution of whole images, from ``(q, i)`` to ``(p, o)``: ``(P I, P O)``."""
    outputs, inputs, size, _ = kernel.shape
    count = pixels.shape[1] * pixels.shape[2]
    rows = kernel.permute(2, 3, 1, 0).reshape(size**2, inputs * outputs)
    blocks = (_taps(pixels, size) @ rows).view(count, count, inputs, outputs)
    return blocks.transpose(1, 2).reshape(count * inputs, count * outputs)


def _taps(pixels: Tensor, size: int) -> Tensor:
    """By which of the kernel's numbers pixel q enters pixel p, as 0 and 1: ``(P P, k k)``."""
    rows, columns = (_taps_of_line(pixels, n, size) for n in pixels.shape[1:3])
    both = rows[:, None, :, None, :, None] * columns[None, :, None, :, None, :]
    return both.reshape((pixels.shape[1] * pixels.shape[2]) ** 2, size**2)


def _taps_of_line(pixels: Tensor, length: int, size: int) -> Tensor:
    """The same in one dimension, ``(q, p, k)``: 1 where q = p + k - size // 2."""
    eye = torch.eye(length, dtype=pixels.dtype, device=pixels.device)
    return F.pad(eye, (size // 2, size // 2)).unfold(1, size, 1)
