"""The rational-quadratic spline of the circle."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_nf._checks import choice
from pyro_nf.bijections._base import ScalarBijection
from pyro_nf.bijections._elements import flat_elements
from pyro_nf.bijections._knots import Box, check_box
from pyro_nf.bijections.rational_quadratic import RationalQuadraticSpline


@dataclass(frozen=True)
class CircularSpline(ScalarBijection):
    r"""A diffeomorphism of the circle: a rational-quadratic spline of the angle, and a rotation.

    .. math:: y = (s(x) + \varphi) \bmod 2\pi \quad \text{in } [-\pi, \pi)

    with a monotone rational-quadratic spline s of [-π, π] onto itself whose slopes at both ends
    are one and the same learned number: seen on the circle, the slope is continuous everywhere.
    Without the rotation φ the angle π would never move.

    The parameters of each element are raw widths, heights, slopes (``bins`` each) and, with
    ``phase="learned"``, φ in radians, in this order. Zero parameters are the identity. The cost is
    that of a :class:`RationalQuadraticSpline`, in either direction.

    The bijection is periodic in its input, so that an angle outside of [-π, π) stands for the same
    angle inside. A layer's domain is [-π, π] none the less, for a density of the real line would
    be another one: validation refuses other data, which ``torch.remainder`` brings home. Networks
    that read angles should do so by ``features="periodic"``.

    Args:
        bins: Number of bins, at least 2.
        min_bin: The least width and height of a bin, as a fraction of the circle.
        min_slope: The least slope at a knot, below 1.
        phase: "learned" adds the rotation, "fixed" leaves it out.

    Raises:
        TypeError, ValueError: If an option is out of its range, or ``bins · min_bin >= 1``.

    References:
        Normalizing Flows on Tori and Spheres (Rezende et al., 2020), arXiv 2002.02428.

    Examples:
        >>> import torch
        >>> spline = CircularSpline(bins=8)
        >>> x = torch.linspace(-3, 3, 7)
        >>> params = torch.linspace(-1, 1, spline.param_count * 7).view(-1, 7)
        >>> y, ladj = spline.forward(x, params)
        >>> y.shape, ladj.shape
        (torch.Size([7]), torch.Size([7]))
        >>> x2, _ = spline.inverse(y, params)
        >>> torch.allclose(x, x2, atol=1e-5)
        True
    """

    domain: ClassVar[constraints.Constraint] = constraints.interval(-math.pi, math.pi)

    bins: int = 8
    min_bin: float = 1e-3
    min_slope: float = 1e-3
    phase: Literal["learned", "fixed"] = "learned"
    _spline: RationalQuadraticSpline = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Checks the options."""
        check_box(
            "CircularSpline",
            Box(self.bins, math.pi, "learned", self.min_bin, self.min_slope),
        )
        choice("CircularSpline", "phase", self.phase, ("learned", "fixed"))
        spline = RationalQuadraticSpline(
            self.bins, math.pi, "learned", self.min_bin, self.min_slope
        )
        object.__setattr__(self, "_spline", spline)

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: ``3 bins``, and 1 for a learned phase."""
        return 3 * self.bins + (1 if self.phase == "learned" else 0)

    @property
    def sign(self) -> int:  # type: ignore[override]
        """A circle has no order, so nothing on it increases or decreases."""
        raise NotImplementedError(
            "CircularSpline turns the circle, so it is no monotone map of the interval and has no "
            "sign. Use log_prob and sample instead of cdf and icdf."
        )

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` of shape S with parameters (param_count, *S); returns y and log|dy/dx|."""
        flat, raw, dtype = flat_elements(self, x, params)
        y, ladj = self._spline.forward(_wrap(flat), self._spline_params(raw))
        return _wrap(y + self._turn(raw)).view(x.shape).to(dtype), ladj.view(x.shape).to(dtype)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``y`` of shape S with parameters (param_count, *S); returns x and log|dx/dy|."""
        flat, raw, dtype = flat_elements(self, y, params)
        turned = _wrap(flat - self._turn(raw))
        x, ladj = self._spline.inverse(turned, self._spline_params(raw))
        return _wrap(x).view(y.shape).to(dtype), ladj.view(y.shape).to(dtype)

    def _turn(self, raw: Tensor) -> Tensor | float:
        """The rotation, wrapped: many turns would cost digits of the sum."""
        return _wrap(raw[-1]) if self.phase == "learned" else 0.0

    def _spline_params(self, raw: Tensor) -> Tensor:
        """Widths, heights and slopes, the first slope once more at the end."""
        return torch.cat([raw[: 3 * self.bins], raw[2 * self.bins : 2 * self.bins + 1]])


def _wrap(angle: Tensor) -> Tensor:
    """The same angle in [-π, π), where rounding may have led to π itself or beyond."""
    wrapped = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
    return torch.where(wrapped >= math.pi, wrapped - 2 * math.pi, wrapped)
