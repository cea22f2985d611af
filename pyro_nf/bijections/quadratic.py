"""The piecewise-quadratic spline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_nf.bijections._base import ScalarBijection
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
class QuadraticSpline(ScalarBijection):
    r"""A monotone chain of parabolas on a box, whose slope is a chain of straight lines.

    In a bin of width w with the slopes v₀ and v₁ at its left and right knot, z the relative
    position,

    .. math:: y = y_0 + w \left( v_0 z + \tfrac{1}{2} (v_1 - v_0) z^2 \right), \qquad
        \frac{dy}{dx} = v_0 + (v_1 - v_0) z.

    The slopes at the ``bins + 1`` knots are exponentials, divided by their integral over the box
    and mixed with the slope 1 in the proportion ``min_slope``, so that the curve meets the corners
    of the box.

    The parameters of each element are raw widths (``bins``), then raw slopes (``bins + 1``). Zero
    parameters are the identity. The inverse is the root of a quadratic equation in a form without
    cancellation; either direction costs the same.

    Warning:
        The slope is continuous inside the box and jumps at its ends, where it becomes 1. Values
        outside the box do not move: standardise the data, or choose ``bound`` so that the box
        holds them.

    Args:
        bins: Number of bins, at least 2.
        bound: Half the side of the box, in units of x.
        min_bin: The least width of a bin, as a fraction of the box.
        min_slope: The least slope, below 1.

    Raises:
        TypeError, ValueError: If an option is out of its range, or ``bins · min_bin >= 1``.

    References:
        Neural Importance Sampling (Müller et al., 2019), arXiv 1808.03856.

    Examples:
        >>> import torch
        >>> spline = QuadraticSpline(bins=8, bound=5.0)
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
        check_bins("QuadraticSpline", self.bins, self.bound)
        check_min_bin("QuadraticSpline", self.bins, self.min_bin)
        check_min_slope("QuadraticSpline", self.min_slope)

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: ``2 bins + 1``."""
        return 2 * self.bins + 1

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` of shape S with parameters (param_count, *S); returns y and log|dy/dx|."""
        return on_box(self, self.bound, self._rise, x, params)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``y`` of shape S with parameters (param_count, *S); returns x and log|dx/dy|."""
        return on_box(self, self.bound, self._run, y, params)

    def _rise(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        bin_ = self._bin(x, raw, axis=0)
        z = share_of(x, bin_.x0, bin_.x1)
        slope = torch.lerp(bin_.v0, bin_.v1, z)
        # The mean of the slope over the way from the knot is that of its ends.
        rise = z * ((bin_.v0 + slope) / (bin_.v0 + bin_.v1))
        return torch.lerp(bin_.y0, bin_.y1, rise), slope.log()

    def _run(self, y: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        bin_ = self._bin(y, raw, axis=1)
        rise = share_of(y, bin_.y0, bin_.y1)
        # The square of the slope is linear in y.
        slope = torch.lerp(bin_.v0.square(), bin_.v1.square(), rise).sqrt()
        z = rise * ((bin_.v0 + bin_.v1) / (bin_.v0 + slope))
        return torch.lerp(bin_.x0, bin_.x1, z), -slope.log()

    def _bin(self, value: Tensor, raw: Tensor, *, axis: int) -> _Bin:
        """Finds the bin of each value, which lies along x (axis 0) or y (axis 1)."""
        widths = sizes_from(raw[: self.bins], self.min_bin)
        slopes = raw[self.bins :]
        slopes = (slopes - slopes.detach().amax(0)).exp()
        area = (0.5 * widths * (slopes[:-1] + slopes[1:])).sum(0)
        slopes = self.min_slope + (1 - self.min_slope) / area * slopes
        x_knots = knots_from(widths)
        y_knots = knots_from(0.5 * widths * (slopes[:-1] + slopes[1:]))
        index = bin_of(value, y_knots if axis else x_knots)
        return _Bin(
            pick(x_knots, index),
            pick(x_knots, index + 1),
            pick(y_knots, index),
            pick(y_knots, index + 1),
            pick(slopes, index),
            pick(slopes, index + 1),
        )


class _Bin(NamedTuple):
    """The left and right knot of a bin, and the slopes there, each ``(n,)``."""

    x0: Tensor
    x1: Tensor
    y0: Tensor
    y1: Tensor
    v0: Tensor
    v1: Tensor
