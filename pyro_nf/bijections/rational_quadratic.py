"""The monotone rational-quadratic spline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pyro_nf.bijections import _rational_quadratic
from pyro_nf.bijections._closed_form import ClosedForm, Direction, Saved
from pyro_nf.bijections._knots import Box, check_box


@dataclass(frozen=True)
class RationalQuadraticSpline(ClosedForm):
    r"""A monotone spline of ratios of quadratics on a box, the identity outside it.

    Inside ``[-bound, bound]`` the curve runs through ``bins + 1`` knots with a given slope at
    each. In a bin of secant s with slopes d₀ and d₁ at its left and right knot, z the relative
    position,

    .. math:: y = y_0 + \frac{h \, (s z^2 + d_0 z (1 - z))}{s + (d_0 + d_1 - 2 s) z (1 - z)}

    The parameters of each element are raw widths, heights (``bins`` each) and slopes (``bins - 1``
    interior ones, or ``bins + 1`` with learned boundary slopes), in this order. Zero parameters
    are the identity. The gradient is in closed form and twice differentiable. The inverse solves
    a quadratic equation by a form without cancellation: it costs about 1.2 times the forward map.

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

    Raises:
        TypeError, ValueError: If an option is out of its range, or ``bins · min_bin >= 1``.

    References:
        Neural Spline Flows (Durkan et al., 2019), arXiv 1906.04032.

    Examples:
        >>> import torch
        >>> spline = RationalQuadraticSpline(bins=8, bound=5.0)
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

    def __post_init__(self) -> None:
        """Checks the options."""
        check_box("RationalQuadraticSpline", self._box)

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: ``3 bins - 1``, or ``3 bins + 1``."""
        return 3 * self.bins + (1 if self.boundary_slopes == "learned" else -1)

    def evaluate(
        self, value: Tensor, params: Tensor, direction: Direction
    ) -> tuple[Tensor, Tensor]:
        """The map and its log-derivative in plain differentiable operations."""
        return _rational_quadratic.evaluate(value, params, self._box, direction)

    def solve(
        self, value: Tensor, params: Tensor, direction: Direction
    ) -> tuple[Tensor, Tensor, Saved]:
        """The map without a graph, and what :meth:`pull_back` reads of it."""
        return _rational_quadratic.solve(value, params, self._box, direction)

    def pull_back(
        self, saved: Saved, grad: Tensor, ladj_grad: Tensor, direction: Direction
    ) -> tuple[Tensor, Tensor]:
        """The gradients of the values and the parameters."""
        return _rational_quadratic.pull_back(saved, grad, ladj_grad, self._box, direction)

    @property
    def _box(self) -> Box:
        return Box(self.bins, self.bound, self.boundary_slopes, self.min_bin, self.min_slope)
