"""Convolutions whose spectral norm, on images of one size, is held below a limit."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from pyro_nf.nn._spectral import NormLimit, top_singular_value

ConvNorm = Literal["auto", "exact", "power"]

_LARGEST_MATRIX = 32  # rows or columns, up to which a convolution is taken as a matrix
_LARGEST_LOOSE = 256  # the same where the torus's bound is loose: below 10 ms
_EXACT_COST = 2**22  # frequencies times channels cubed: about 10 ms


class ConvLimit(NormLimit):
    r"""A limit of convolutions that keep the image's size, zeros beyond its border.

    Args:
        shape: Of the kernel: output channels, input channels and its two odd sides.
        size: Height and width of the images.
        limit: The norm that the result does not exceed.
        norm: "exact" is the norm or a bound from above, by :func:`torus_norm`. It is the norm of
            kernels of 1×1 and of images of at most 32 numbers, where a side of the kernel reaches
            that of the image of at most 256. "power" follows the norm by power iteration with a
            margin. "auto" is "exact" unless that costs more than about ten milliseconds.
    """

    def __init__(
        self, shape: tuple[int, int, int, int], size: tuple[int, int], limit: float, norm: ConvNorm
    ) -> None:
        outputs, inputs, *sides = shape
        channels, kernel = min(outputs, inputs), _touching((sides[0], sides[1]), size)
        torus = _torus(size, kernel)
        frequencies = 1 if max(kernel) == 1 else torus[0] * (torus[1] // 2 + 1)
        cheap = frequencies * channels**3 <= _EXACT_COST or _is_matrix(channels, kernel, size)
        chosen = ("exact" if cheap else "power") if norm == "auto" else norm
        super().__init__(limit, inputs * math.prod(size), chosen)
        self.size = size

    def exact(self, weight: Tensor) -> Tensor:
        """Computes the norm, of large images a bound from above."""
        weight = cropped(weight, self.size)
        outputs, inputs, *kernel = weight.shape
        if max(kernel) == 1:
            return top_singular_value(weight[:, :, 0, 0])
        as_matrix = _is_matrix(min(outputs, inputs), (kernel[0], kernel[1]), self.size)
        return (dense_norm if as_matrix else torus_norm)(weight, self.size)

    def apply_to(self, weight: Tensor, right: Tensor) -> Tensor:
        """Convolves a flat image."""
        image = right.reshape(1, -1, *self.size)
        return nn.functional.conv2d(image, weight, padding=half(weight)).flatten()

    def apply_transposed(self, weight: Tensor, left: Tensor) -> Tensor:
        """Convolves a flat image with the transposed map."""
        image = left.reshape(1, -1, *self.size)
        return nn.functional.conv_transpose2d(image, weight, padding=half(weight)).flatten()


def cropped(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """The taps of a kernel that join any two pixels of an image: the others read zeros alone."""
    for axis, side in enumerate(_touching((weight.shape[2], weight.shape[3]), size), 2):
        weight = weight.narrow(axis, (weight.shape[axis] - side) // 2, side)
    return weight


def dense_norm(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Computes the spectral norm of a convolution of small images, by its matrix.

    Args:
        weight: The kernel, shape ``(outputs, inputs, k, l)``, sides odd.
        size: Height and width of the images.

    Returns:
        A scalar, twice differentiable with respect to the kernel. Cost: O(n² m), n the fewer of
        the numbers that are read and written and m the other.
    """
    outputs, inputs = weight.shape[:2]
    channels = min(outputs, inputs)
    count = channels * math.prod(size)
    unit_images = torch.eye(count, dtype=weight.dtype, device=weight.device)
    unit_images = unit_images.reshape(count, channels, *size)
    apply = nn.functional.conv2d if inputs <= outputs else nn.functional.conv_transpose2d
    return top_singular_value(apply(unit_images, weight, padding=half(weight)).flatten(1))


def torus_norm(weight: Tensor, size: tuple[int, int]) -> Tensor:
    r"""Bounds the spectral norm of a convolution of images with zeros beyond their border.

    That is the norm of the linear map between images, not of the kernel as a matrix, which may be
    smaller as well as larger. Two facts make it cheap:

    1. On a torus a convolution is diagonal in the frequencies ω: its norm is the largest one of
       the matrices :math:`\sum_d K_d \, e^{i ω \cdot d}`, outputs by inputs.
    2. If the torus is larger than the image by half the kernel, its rim of zeros can be reached
       from either side and the image itself from one only. So the convolution of images is the
       torus's, read and written on a part of it: its norm is no larger.

    For images much larger than the kernel the bound is close to the norm: within 7 % for 8×8
    pixels and a random kernel of 3×3. Where the kernel is as large as the image it may be twice
    the norm.

    Args:
        weight: The kernel K, shape ``(outputs, inputs, k, l)``, sides odd.
        size: Height and width of the images.

    Returns:
        A scalar, twice differentiable with respect to the kernel. Cost: O(n² m) for each
        frequency, n the fewer of inputs and outputs and m the other.

    References:
        The Singular Values of Convolutional Layers (Sedghi et al., 2019), arXiv:1805.10408.
    """
    angles = _angles(weight, size)  # (frequencies, k l)
    with torch.no_grad():
        norms = _gram_norms(weight.detach(), angles)
        worst = angles.index_select(0, norms.argmax(0, keepdim=True)).squeeze(0)
    taps = weight.flatten(2)
    real, imaginary = taps @ worst.cos(), taps @ worst.sin()
    # A complex matrix as a real one has its singular values twice.
    rows = torch.cat([real, -imaginary], 1), torch.cat([imaginary, real], 1)
    return top_singular_value(torch.cat(rows))


def _angles(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """ω · d for the frequencies of half the torus and the kernel's taps d, ``(ω, k l)``.

    The other half is the complex conjugate.
    """
    rows, columns = weight.shape[2:]
    height, width = _torus(size, (rows, columns))
    count = lambda n: torch.arange(n, dtype=weight.dtype, device=weight.device)  # noqa: E731
    down = torch.outer(count(height), count(rows)) * (2 * math.pi / height)
    across = torch.outer(count(width // 2 + 1), count(columns)) * (2 * math.pi / width)
    return (down[:, None, :, None] + across[None, :, None, :]).flatten(2).flatten(0, 1)


def _gram_norms(weight: Tensor, angles: Tensor) -> Tensor:
    """The squared norm at each frequency, ``(ω,)``, in units of the largest weight's square."""
    taps = weight.flatten(2)
    if taps.shape[0] > taps.shape[1]:
        taps = taps.transpose(0, 1)
    largest = taps.abs().amax()
    taps = taps / torch.where(largest > 0, largest, 1)
    phases = torch.polar(torch.ones_like(angles), angles)  # (ω, k l)
    spectrum = torch.tensordot(phases, taps.to(phases.dtype), ([1], [2]))  # (ω, few, many)
    return torch.linalg.eigvalsh(spectrum @ spectrum.mH)[:, -1]


def _torus(size: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
    return size[0] + kernel[0] // 2, size[1] + kernel[1] // 2


def _touching(kernel: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """The sides of a kernel without the taps that are an image's side away or further."""
    return min(kernel[0], 2 * size[0] - 1), min(kernel[1], 2 * size[1] - 1)


def _is_matrix(channels: int, kernel: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether a convolution's norm is to be found by its matrix."""
    loose = any(k >= n > 1 for k, n in zip(kernel, size, strict=True))
    return channels * math.prod(size) <= (_LARGEST_LOOSE if loose else _LARGEST_MATRIX)


def half(weight: Tensor) -> tuple[int, int]:
    """How many rows and columns away a kernel reads."""
    return weight.shape[2] // 2, weight.shape[3] // 2
