"""The monotone cubic spline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_nf.bijections._base import ScalarBijection
from pyro_nf.bijections._cubic_root import position, rise_and_slope
from pyro_nf.bijections._unit_bins import (
    bin_of,
    check_bins,
    check_min_bin,
    check_min_slope,
    knots_from,
    on_box,
    pick,
    share_of,
    sizes_from,
)


@dataclass(frozen=True)
class CubicSpline(ScalarBijection):
    r"""A monotone chain of cubics on a box, the identity outside it.

    Inside ``[-bound, bound]`` the curve runs through ``bins + 1`` knots. The slope at an interior
    knot is Steffen's: that of the parabola through the knot and its two neighbours, held where the
    curve stays monotone. With the secants s and widths w of the bins to its left (k - 1) and its
    right (k),

    .. math:: d_k = \min(2 s_{k-1}, \; 2 s_k, \; p_k), \qquad
        p_k = \frac{s_{k-1} w_k + s_k w_{k-1}}{w_{k-1} + w_k},

    and the slopes at the two ends are learned, between 0 and twice the secant there. Each bin
    is the cubic with these slopes and knots. Its least slope is half the secant or a knot's slope.

    The parameters of each element are raw widths, heights (``bins`` each) and the two raw slopes
    at the ends, in this order. Zero parameters are the identity. The inverse is found by a fixed
    number of Newton steps, which reach the precision of the number format for all parameters: it
    costs up to twice the forward map, and compiles.

    Warning:
        The slope is continuous inside the box and jumps at its ends, where it becomes 1. Values
        outside the box do not move: standardise the data, or choose ``bound`` so that the box
        holds them.

    Args:
        bins: Number of bins, at least 2.
        bound: Half the side of the box, in units of x.
        min_bin: The least width and height of a bin, as a fraction of the box. Below 1e-5 the
            rounding of float32 may merge knots.
        min_slope: The least slope at an end, as a fraction of the secant there; below 1.

    Raises:
        TypeError, ValueError: If an option is out of its range, or ``bins · min_bin >= 1``.

    References:
        - Cubic-Spline Flows (Durkan et al., 2019), arXiv 1906.02145.
        - A simple method for monotonic interpolation in one dimension (Steffen, 1990).

    Examples:
        >>> import torch
        >>> spline = CubicSpline(bins=8, bound=5.0)
        >>> x = torch.linspace(-6, 6, 12).view(3, 4)
        >>> params = torch.linspace(-1, 1, spline.param_count * 12).view(-1, 3, 4)
        >>> y, ladj = spline.forward(x, params)
        >>> y.shape, ladj.shape
        (torch.Size([3, 4]), torch.Size([3, 4]))
        >>> x2, _ = spline.inverse(y, params)
        >>> torch.allclose(x, x2, atol=1e-4)
        True
    """

    bins: int = 8
    bound: float = 5.0
    min_bin: float = 1e-3
    min_slope: float = 1e-3

    def __post_init__(self) -> None:
        """Checks the options."""
        check_bins("CubicSpline", self.bins, self.bound)
        check_min_bin("CubicSpline", self.bins, self.min_bin)
        check_min_slope("CubicSpline", self.min_slope)

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: ``2 bins + 2``."""
        return 2 * self.bins + 2

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` of shape S with parameters (param_count, *S); returns y and log|dy/dx|."""
        return on_box(self, self.bound, self._rise, x, params)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``y`` of shape S with parameters (param_count, *S); returns x and log|dx/dy|."""
        return on_box(self, self.bound, self._run, y, params)

    def _rise(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        bin_ = self._bin(x, raw, axis=0)
        z = share_of(x, bin_.x0, bin_.x1)
        rise, slope = rise_and_slope(z, bin_.alpha, bin_.beta)
        return torch.lerp(bin_.y0, bin_.y1, rise), (slope * bin_.secant).log()

    def _run(self, y: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        bin_ = self._bin(y, raw, axis=1)
        z = position(share_of(y, bin_.y0, bin_.y1), bin_.alpha, bin_.beta)
        _, slope = rise_and_slope(z, bin_.alpha, bin_.beta)
        return torch.lerp(bin_.x0, bin_.x1, z), -(slope * bin_.secant).log()

    def _bin(self, value: Tensor, raw: Tensor, *, axis: int) -> _Bin:
        """Finds the bin of each value, which lies along x (axis 0) or y (axis 1)."""
        widths = sizes_from(raw[: self.bins], self.min_bin)
        heights = sizes_from(raw[self.bins : 2 * self.bins], self.min_bin)
        secants = heights / widths
        slopes = self._slopes(widths, secants, raw[2 * self.bins :])
        x_knots, y_knots = knots_from(widths), knots_from(heights)
        index = bin_of(value, y_knots if axis else x_knots)
        secant = pick(secants, index)
        return _Bin(
            pick(x_knots, index),
            pick(x_knots, index + 1),
            pick(y_knots, index),
            pick(y_knots, index + 1),
            secant,
            pick(slopes, index) / secant,
            pick(slopes, index + 1) / secant,
        )

    def _slopes(self, widths: Tensor, secants: Tensor, raw: Tensor) -> Tensor:
        """The slopes ``(bins + 1, n)`` at the knots."""
        # A raw 0 is the secant itself.
        reach = self.min_slope + 2 * (1 - self.min_slope) * torch.sigmoid(raw)
        left, right = widths[:-1], widths[1:]
        inner = (secants[:-1] * right + secants[1:] * left) / (left + right)
        inner = torch.minimum(inner, 2 * torch.minimum(secants[:-1], secants[1:]))
        return torch.cat([reach[:1] * secants[:1], inner, reach[1:] * secants[-1:]])


class _Bin(NamedTuple):
    """The left and right knot of a bin, its secant, and the slopes there, in secants."""

    x0: Tensor
    x1: Tensor
    y0: Tensor
    y1: Tensor
    secant: Tensor
    alpha: Tensor
    beta: Tensor
