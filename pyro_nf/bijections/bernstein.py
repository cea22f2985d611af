"""The monotone Bernstein polynomial with straight tails."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_nf._checks import positive_float, positive_int
from pyro_nf.bijections._elements import flat_elements
from pyro_nf.bijections._root import NumericallyInverted, Root, check_root


@dataclass(frozen=True)
class Bernstein(NumericallyInverted):
    r"""An increasing polynomial on a box in Bernstein's basis, straight lines outside it.

    With the degree M and the position t = (x + bound) / (2 bound) in the box,

    .. math:: y = \sum_{j=0}^M \theta_j \binom{M}{j} t^j (1 - t)^{M - j}, \qquad
        \theta_0 < \theta_1 < \dots < \theta_M.

    The slope at t is an average of the slopes M (θ_{j+1} - θ_j) / (2 bound), with the weights of
    the basis of degree M - 1, so it is positive. The first two of these slopes are equal, and so
    are the last two: the curvature vanishes at the ends of the box, and the curve, continued by
    its tangents, has two continuous derivatives everywhere. It covers the real line.

    The parameters of each element are the middle of [θ_0, θ_M], then ``degree - 2`` raw slopes.
    Zero parameters are the identity. The forward map is De Casteljau's recursion on positive
    numbers, which cancels nothing: ``degree² / 2`` operations. The inverse is a numerical root,
    some 6 to 12 forward maps.

    Args:
        degree: Degree M of the polynomial, at least 3.
        bound: Half the side of the box, in units of x.
        min_slope: The least slope, below 1.
        root: Budget and tolerance of the inverse.

    Raises:
        TypeError, ValueError: If an option is out of its range.

    References:
        Deep transformation models: Tackling complex regression problems with neural network
        based transformation models (Sick et al., 2020), arXiv 2004.00464.

    Examples:
        >>> import torch
        >>> polynomial = Bernstein(degree=8, bound=4.0)
        >>> x = torch.linspace(-6, 6, 7)
        >>> params = torch.linspace(-1, 1, polynomial.param_count * 7).view(-1, 7)
        >>> y, ladj = polynomial.forward(x, params)
        >>> y.shape, ladj.shape
        (torch.Size([7]), torch.Size([7]))
        >>> x2, _ = polynomial.inverse(y, params)
        >>> torch.allclose(x, x2, atol=1e-4)
        True
    """

    degree: int = 16
    bound: float = 5.0
    min_slope: float = 1e-3
    root: Root = Root()

    def __post_init__(self) -> None:
        """Checks the options."""
        check_root("Bernstein", self.root)
        positive_int("Bernstein", "degree", self.degree)
        positive_float("Bernstein", "bound", self.bound)
        positive_float("Bernstein", "min_slope", self.min_slope)
        if self.degree < 3:
            raise ValueError(
                f"Bernstein got degree={self.degree}, which leaves no slope to learn. "
                "Pass degree=3 or more."
            )
        if self.min_slope >= 1:
            raise ValueError(
                f"Bernstein got min_slope={self.min_slope}, which excludes the identity. "
                "Pass min_slope below 1."
            )

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: ``degree - 1``."""
        return self.degree - 1

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` of shape S with parameters (param_count, *S); returns y and log|dy/dx|."""
        flat, raw, dtype = flat_elements(self, x, params)
        clamped = flat.clamp(-self.bound, self.bound)
        t = clamped / (2 * self.bound) + 0.5
        slopes = F.softplus(raw[1:] + math.log(math.expm1(1 - self.min_slope))) + self.min_slope
        slopes = torch.cat([slopes[:1], slopes, slopes[-1:]])  # (degree, n)
        rise, slope = _de_casteljau(slopes, t)
        step = 2 * self.bound / self.degree
        y = raw[0] + step * (rise - 0.5 * slopes.sum(0))
        y = torch.addcmul(y, slope, flat - clamped)
        return y.view(x.shape).to(dtype), slope.log().view(x.shape).to(dtype)


def _de_casteljau(slopes: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluates a polynomial and its derivative at t ``(n,)``.

    The recursion runs on the M slopes ``(M, n)``, and its last level is the derivative. The first
    coefficient of the polynomial itself grows from level to level by t times the first slope.

    Returns:
        The rise above the first coefficient, in units where the slopes are its differences, and
        the averaged slope, both ``(n,)``.
    """
    rise = slopes[0]
    for _ in range(len(slopes) - 1):
        slopes = torch.lerp(slopes[:-1], slopes[1:], t)
        rise = rise + slopes[0]
    return t * rise, slopes[0]
