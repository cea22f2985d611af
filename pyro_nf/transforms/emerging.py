"""Emerging convolutions: invertible convolutions of any size from two triangular ones."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from pyro_nf._checks import positive_int
from pyro_nf._precision import narrow, widen, without_autocast
from pyro_nf.bijections._matrices import solve_columns, well_conditioned
from pyro_nf.transforms._images.channel_map import at_each_pixel
from pyro_nf.transforms._images.corner_conv import convolve, solve, turned
from pyro_nf.transforms._images.image_transform import ImageTransform, as_pass

_LOG_SCALE_BOUND = 5.0


@final
class EmergingConv2d(ImageTransform):
    r"""An invertible k×k convolution, zero-padded, made of two that are triangular.

    .. math:: y = \operatorname{diag}(e^s)(I + U) \, A_2 \, (I + L) \, A_1 \, x, \qquad
        \log|\det dy/dx| = H W \sum_c s_c

    :math:`A_1` adds to each pixel a linear map of the pixels above and to the left of it, up to
    q − 1 = (k − 1)/2 away, :math:`A_2` one of those below and to the right. Each comes before a
    triangular map of the channels, I + L or I + U, at every pixel. With the pixels in raster order
    each half is a triangular matrix, of opposite sides; both together read all k×k pixels around.
    With k = 1 it would be :class:`InvertibleConv1x1` by its LU factors.

    The scales are bounded softly, :math:`s = 5 \tanh(t/5)` for the parameter t. Starts at the
    identity.

    Cost: base -> data two convolutions of q×q, O(q²C²) a pixel. Data -> base the same arithmetic
    in 2(H + W − 1) steps, one for each antidiagonal of the image. To train a density fast, use
    ``.inv``, which scores in two convolutions.

    Args:
        channels: Number C of channels.
        kernel_size: Width k of what the two convolutions read together: odd, at least 3. It may
            exceed the image.

    Warning:
        The inverse is exact, but with large weights it grows geometrically from pixel to pixel,
        as that of any triangular matrix may. Weights are kept divided by :math:`\sqrt{q^2 C}`,
        where random ones of size 1 do little.

    Raises:
        TypeError, ValueError: If a size is no positive integer, or ``kernel_size`` even or 1.

    References:
        Emerging Convolutions for Generative Normalizing Flows (Hoogeboom et al., 2019),
        arXiv:1901.11137, section 3.1.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import EmergingConv2d
        >>> layer = EmergingConv2d(3)
        >>> y, ladj = layer.forward_and_ladj(torch.ones(5, 3, 8, 8))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3, 8, 8]), torch.Size([5]))
    """

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__(channels)
        self.kernel_size = positive_int("EmergingConv2d", "kernel_size", kernel_size)
        if kernel_size % 2 == 0 or kernel_size == 1:
            raise ValueError(
                f"EmergingConv2d got kernel_size={kernel_size}. Pass an odd number from 3 on; for "
                "1, take InvertibleConv1x1."
            )
        taps = ((kernel_size + 1) // 2) ** 2 - 1
        self.first_taps = nn.Parameter(torch.zeros(taps, channels, channels))
        self.second_taps = nn.Parameter(torch.zeros(taps, channels, channels))
        # As LAPACK packs triangles: L below the diagonal, U above it, here t on it.
        self.factors = nn.Parameter(torch.zeros(channels, channels))

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps base to data."""
        rows, batch = self._rows(x, context, "x")
        first, second, lower, upper, log_scale = self._weights()
        with without_autocast(x):
            eye = torch.eye(self.channels, dtype=first.dtype, device=first.device)
            h = convolve(first, eye + lower, widen(rows))
            mixing = (eye + upper) * log_scale.exp()[:, None]
            y = turned(convolve(second, mixing, turned(h)))
        return as_pass(narrow(y, x.dtype), _over_pixels(log_scale, rows), batch)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to base."""
        rows, batch = self._rows(y, context, "y")
        first, second, lower, upper, log_scale = self._weights()
        with without_autocast(y):
            eye = torch.eye(self.channels, dtype=first.dtype, device=first.device)
            unmix = solve_columns(upper, (-log_scale).exp().diag(), side="upper")
            h = turned(solve(second, turned(at_each_pixel(unmix, widen(rows)))))
            x = solve(first, at_each_pixel(solve_columns(lower, eye, side="lower"), h))
        return as_pass(narrow(x, y.dtype), -_over_pixels(log_scale, rows), batch)

    def _weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Both convolutions' taps, L, U, and the log-scales; reads every parameter once."""
        first, second, factors = map(widen, (self.first_taps, self.second_taps, self.factors))
        fan_in = ((first.shape[0] + 1) * self.channels) ** 0.5
        mixing = well_conditioned(factors)
        log_scale = _LOG_SCALE_BOUND * (factors.diagonal() / _LOG_SCALE_BOUND).tanh()
        return first / fan_in, second / fan_in, mixing.tril(-1), mixing.triu(1), log_scale

    def extra_repr(self) -> str:
        """The sizes, for ``repr``."""
        return f"channels={self.channels}, kernel_size={self.kernel_size}"


def _over_pixels(log_scale: Tensor, rows: Tensor) -> Tensor:
    """The log-determinant of one image."""
    return log_scale.sum() * (rows.shape[-2] * rows.shape[-1])
