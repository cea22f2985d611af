"""The piecewise-linear spline."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_nf.bijections._base import ScalarBijection
from pyro_nf.bijections._unit_bins import (
    bin_of,
    check_bins,
    check_min_slope,
    knots_from,
    on_box,
    pick,
    sizes_from,
)


@dataclass(frozen=True)
class LinearSpline(ScalarBijection):
    r"""A monotone chain of straight lines on a box, the identity outside it.

    The box [-bound, bound] is cut into bins of equal width. In the bin that starts at
    (x_k, y_k), with the slope v_k,

    .. math:: y = y_k + v_k (x - x_k), \qquad v_k = m + (1 - m) \, K \, \mathrm{softmax}(a)_k

    with m = ``min_slope`` and K bins, so that the slopes have the mean 1 and the curve meets the
    corners of the box. As the map from data to a uniform base it is a histogram.

    The parameters of each element are the raw slopes a, ``bins`` in all. Zero parameters are the
    identity. Either direction costs one softmax, one sum over the bins and a selection.

    Warning:
        The slope, and so the density of a flow, jumps at every knot and at the ends of the box.
        Values outside the box do not move: standardise the data, or choose ``bound`` so that the
        box holds them.

    Args:
        bins: Number K of bins, at least 2.
        bound: Half the side of the box, in units of x.
        min_slope: The least slope m, below 1.

    Raises:
        TypeError, ValueError: If an option is out of its range.

    References:
        Neural Importance Sampling (Müller et al., 2019), arXiv 1808.03856.

    Examples:
        >>> import torch
        >>> spline = LinearSpline(bins=8, bound=5.0)
        >>> x = torch.linspace(-6, 6, 12).view(3, 4)
        >>> params = torch.linspace(-1, 1, spline.param_count * 12).view(-1, 3, 4)
        >>> y, ladj = spline.forward(x, params)
        >>> y.shape, ladj.shape
        (torch.Size([3, 4]), torch.Size([3, 4]))
        >>> x2, _ = spline.inverse(y, params)
        >>> torch.allclose(x, x2, atol=1e-4)
        True
    """

    bins: int = 16
    bound: float = 5.0
    min_slope: float = 1e-3

    def __post_init__(self) -> None:
        """Checks the options."""
        check_bins("LinearSpline", self.bins, self.bound)
        check_min_slope("LinearSpline", self.min_slope)

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: ``bins``."""
        return self.bins

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` of shape S with parameters (param_count, *S); returns y and log|dy/dx|."""
        return on_box(self, self.bound, self._rise, x, params)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``y`` of shape S with parameters (param_count, *S); returns x and log|dx/dy|."""
        return on_box(self, self.bound, self._run, y, params)

    def _rise(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        heights = self._heights(raw)
        ends = torch.linspace(0, 1, self.bins + 1, dtype=x.dtype, device=x.device)
        index = bin_of(x, ends.unsqueeze(1))
        slope = pick(heights, index) * self.bins
        start = index.to(x.dtype) / self.bins
        y = torch.addcmul(pick(knots_from(heights), index), slope, x - start)
        return y, slope.log()

    def _run(self, y: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        heights = self._heights(raw)
        knots = knots_from(heights)
        index = bin_of(y, knots)
        slope = pick(heights, index) * self.bins
        x = index.to(y.dtype) / self.bins + (y - pick(knots, index)) / slope
        return x, -slope.log()

    def _heights(self, raw: Tensor) -> Tensor:
        return sizes_from(raw, self.min_slope / self.bins)
