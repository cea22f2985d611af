"""The monotone linear-rational spline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyro_nf._checks import positive_float
from pyro_nf.bijections._base import ScalarBijection
from pyro_nf.bijections._elements import flat_elements
from pyro_nf.bijections._knots import Box, Cell, check_box, locate


@dataclass(frozen=True)
class LinearRationalSpline(ScalarBijection):
    r"""A monotone spline of ratios of straight lines on a box, the identity outside it.

    Inside ``[-bound, bound]`` the curve runs through ``bins + 1`` knots with a given slope at
    each. Every bin is cut at the relative position λ into two halves, and each half is a ratio
    of two straight lines. With the position z and the height r relative to the bin, both
    measured from its left knot, the left half is

    .. math:: r = \frac{w_c \, r_c \, z}{w_a (\lambda - z) + w_c z}

    and the right half is its mirror image, with z, r, λ, r_c and w_a replaced by 1 - z, 1 - r,
    1 - λ, 1 - r_c and w_b. In terms of the bin's secant s and its slopes d₀ and d₁, the weights
    are √d₁, √d₀ and √(d₀ d₁) (λ √d₀ + (1 - λ) √d₁) / s at the left knot (a), the right knot (b)
    and the cut (c), and r_c = λ w_b / ((1 - λ) w_a + λ w_b). Every term is positive.

    The parameters of each element are raw widths, heights (``bins`` each), slopes (``bins - 1``
    interior ones, or ``bins + 1`` with learned boundary slopes) and cuts (``bins``), in this
    order. Zero parameters are the identity. Either direction costs the same.

    Warning:
        Values outside the box do not move. Standardise the data, or choose ``bound`` so that the
        box holds them. A curve may be nearly flat somewhere (slope 1e-7 at extreme parameters),
        and in float32 no inverse can recover an x from a y rounded there.

    Args:
        bins: Number of bins, at least 2.
        bound: Half the side of the box, in units of x.
        boundary_slopes: "fixed" holds the slope at both ends of the box at 1, so that the
            derivative is continuous; "learned" frees the two slopes, and it may jump there.
        min_bin: The least width and height of a bin, as a fraction of the box. Below 1e-5 the
            rounding of float32 may merge knots.
        min_slope: The least slope at a knot, below 1.
        min_lambda: The least distance of λ from 0 and 1, below 1/2.

    Raises:
        TypeError, ValueError: If an option is out of its range, or ``bins · min_bin >= 1``.

    References:
        Invertible Generative Modeling using Linear Rational Splines (Dolatabadi et al., 2020),
        arXiv 2001.05168.

    Examples:
        >>> import torch
        >>> spline = LinearRationalSpline(bins=8, bound=5.0)
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
    boundary_slopes: Literal["fixed", "learned"] = "fixed"
    min_bin: float = 1e-3
    min_slope: float = 1e-3
    min_lambda: float = 0.025

    def __post_init__(self) -> None:
        """Checks the options."""
        check_box("LinearRationalSpline", self._box)
        positive_float("LinearRationalSpline", "min_lambda", self.min_lambda)
        if self.min_lambda >= 0.5:
            raise ValueError(
                f"LinearRationalSpline got min_lambda={self.min_lambda}, which leaves no room "
                "for a cut. Pass min_lambda below 0.5."
            )

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: ``4 bins - 1``, or ``4 bins + 1``."""
        return 4 * self.bins + (1 if self.boundary_slopes == "learned" else -1)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` of shape S with parameters (param_count, *S); returns y and log|dy/dx|."""
        return self._apply(x, params, "forward")

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``y`` of shape S with parameters (param_count, *S); returns x and log|dx/dy|."""
        return self._apply(y, params, "inverse")

    @property
    def _box(self) -> Box:
        return Box(self.bins, self.bound, self.boundary_slopes, self.min_bin, self.min_slope)

    def _apply(
        self, value: Tensor, params: Tensor, direction: Literal["forward", "inverse"]
    ) -> tuple[Tensor, Tensor]:
        flat, raw, dtype = flat_elements(self, value, params)
        axis = 1 if direction == "inverse" else 0
        clamped = flat.clamp(-self.bound, self.bound)
        cell = locate(self._box, clamped, raw, axis)
        raw_cut = raw[self._box.slope_rows.stop :].gather(0, cell.bin.unsqueeze(0)).squeeze(0)
        cut = self.min_lambda + (1 - 2 * self.min_lambda) * torch.sigmoid(raw_cut)
        result, ladj = _mapped(clamped, cell, cut, axis)
        inside = flat == clamped
        result, ladj = torch.where(inside, result, flat), ladj * inside
        return result.view(value.shape).to(dtype), ladj.view(value.shape).to(dtype)


def _mapped(value: Tensor, cell: Cell, cut: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Maps values ``(n,)`` along ``axis`` to the other axis, within their bins."""
    start, end, size = cell.start, cell.end, cell.sizes  # (2, n) each: x and y
    secant = size[1] / size[0]
    d0, d1 = cell.slopes.unbind(0)
    w_a, w_b = d1.sqrt(), d0.sqrt()
    below, above = cut * w_b, (1 - cut) * w_a
    total = below + above
    w_c = w_a * w_b * total / secant

    # The half that holds the value, measured from the knot at its end.
    position = (value - start[axis]) / size[axis]
    left = position <= (below / total if axis else cut)
    weight = torch.where(left, w_a, w_b)
    reach = torch.where(left, cut, 1 - cut)
    rise = torch.where(left, below, above) / total
    near = torch.where(left, value - start[axis], end[axis] - value) / size[axis]
    if axis:
        denominator = w_c * (rise - near).clamp(min=0) + weight * near
        moved = weight * reach * near / denominator
    else:
        denominator = weight * (reach - near).clamp(min=0) + w_c * near
        moved = w_c * rise * near / denominator
    step = size[1 - axis] * moved
    result = torch.where(left, start[1 - axis] + step, end[1 - axis] - step)
    ladj = torch.log(weight * w_c * reach * rise) - 2 * torch.log(denominator)
    return result, ladj - secant.log() if axis else ladj + secant.log()
