"""The splines that Pyro's ``order`` chooses between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyro_nf._checks import choice, positive_float, positive_int
from pyro_nf.bijections import LinearRationalSpline, RationalQuadraticSpline, ScalarBijection

Order = Literal["linear", "quadratic"]


def spline_bijection(
    owner: str, count_bins: int, bound: float, order: Order
) -> LinearRationalSpline | RationalQuadraticSpline:
    """Creates the rational spline of a given order."""
    choice(owner, "order", order, ("linear", "quadratic"))
    kind = LinearRationalSpline if order == "linear" else RationalQuadraticSpline
    if positive_int(owner, "count_bins", count_bins) < 2:
        raise ValueError(
            f"{owner} got count_bins=1, which has no interior knot. Pass count_bins=2 or more."
        )
    return kind(bins=count_bins, bound=positive_float(owner, "bound", bound))


@dataclass(frozen=True)
class PyroSpline(ScalarBijection):
    """A rational spline at raw parameters of Pyro's meaning.

    Raw slopes differ by a constant: at 0 the slope is 1 here, so that a fresh layer is the
    identity, and log 2 there. What a user's network makes is read in Pyro's meaning. The map is
    then Pyro's but in the two outer bins: the slopes at the box are 1 here and 0.999 there.

    Args:
        spline: The spline.
    """

    spline: LinearRationalSpline | RationalQuadraticSpline

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: the spline's."""
        return self.spline.param_count

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps by the spline."""
        return self.spline.forward(x, self._converted(params))

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps by the spline's inverse."""
        return self.spline.inverse(y, self._converted(params))

    def _converted(self, params: Tensor) -> Tensor:
        box = self.spline._box
        slopes = box.slope_rows
        before, after = params[: slopes.start], params[slopes.stop :]
        return torch.cat([before, params[slopes] - box.slope_offset, after])
