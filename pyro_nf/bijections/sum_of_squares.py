"""The sum-of-squares polynomial."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyro_nf._checks import positive_float, positive_int
from pyro_nf.bijections._elements import flat_elements
from pyro_nf.bijections._quadrature import Rule, gauss_legendre
from pyro_nf.bijections._root import NumericallyInverted, Root, check_root, invert


@dataclass(frozen=True)
class SumOfSquares(NumericallyInverted):
    r"""An increasing polynomial: the integral of a sum of squared polynomials.

    .. math:: y = b + \int_0^x \Big( m + \sum_{k=1}^K p_k(u)^2 \Big) \, du, \qquad
        p_k(u) = \sqrt{\tfrac{1 - m}{K}}
        + \sum_{r=0}^R a_{k,r} \left( \frac{u - \mu_k}{s} \right)^r

    The slope is at least m = ``min_slope``, so that y covers the real line and x can be found
    from it; with m = 0 these are all increasing polynomials of degree 2R + 1 as soon as K ≥ 2. The
    fixed centres μ spread evenly over [-1, 1] (0 for K = 1): polynomials written around one point
    would get equal gradients and stay equal for ever.

    The parameters of each element are the shift b, then the coefficients a, all those of the
    power 0 first: ``1 + (degree + 1) count`` in all. Zero parameters are the identity.

    The integral is exact: Gauss-Legendre quadrature with R + 1 nodes integrates the degree 2R
    without error, and all its terms are positive, so that nothing cancels. The forward map costs
    (R + 2) K polynomials of degree R; the inverse is a numerical root, some 6 to 10 forward maps.

    Warning:
        y grows as x to the power 2R + 1: values far from 0 move very far. Standardise the data.

    Args:
        degree: Degree R of the polynomials that are squared, at least 1.
        count: Number K of polynomials.
        scale: The unit s of the powers, in units of x: where values reach several s, a small
            change of the coefficients moves them far.
        min_slope: The least slope m of the curve, below 1.
        root: Budget and tolerance of the inverse.

    Raises:
        TypeError, ValueError: If an option is out of its range.

    References:
        Sum-of-Squares Polynomial Flow (Jaini et al., 2019), arXiv 1905.02325.

    Examples:
        >>> import torch
        >>> polynomial = SumOfSquares(degree=2, count=2)
        >>> x = torch.linspace(-2, 2, 5)
        >>> params = torch.linspace(-1, 1, polynomial.param_count * 5).view(-1, 5)
        >>> y, ladj = polynomial.forward(x, params)
        >>> y.shape, ladj.shape
        (torch.Size([5]), torch.Size([5]))
        >>> x2, _ = polynomial.inverse(y, params)
        >>> torch.allclose(x, x2, atol=1e-4)
        True
    """

    degree: int = 2
    count: int = 2
    scale: float = 3.0
    min_slope: float = 1e-3
    root: Root = Root()
    # Made once: a compiler does not follow a cache.
    _rule: Rule = field(default=Rule((), ()), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Checks the options."""
        check_root("SumOfSquares", self.root)
        positive_int("SumOfSquares", "degree", self.degree)
        positive_int("SumOfSquares", "count", self.count)
        positive_float("SumOfSquares", "scale", self.scale)
        positive_float("SumOfSquares", "min_slope", self.min_slope)
        if self.min_slope >= 1:
            raise ValueError(
                f"SumOfSquares got min_slope={self.min_slope}, which excludes the identity. "
                "Pass min_slope below 1."
            )
        object.__setattr__(self, "_rule", gauss_legendre(self.degree + 1))

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: ``1 + (degree + 1) count``."""
        return 1 + (self.degree + 1) * self.count

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` of shape S with parameters (param_count, *S); returns y and log|dy/dx|."""
        flat, raw, dtype = flat_elements(self, x, params)
        points = torch.stack([flat, *(node * flat for node in self._rule.nodes)])
        slope, *others = self._slope(points, raw[1:]).unbind(0)  # (n,) each
        mean = torch.zeros_like(slope)
        for weight, other in zip(self._rule.weights, others, strict=True):
            mean = torch.add(mean, other, alpha=weight)
        y = torch.addcmul(raw[0], flat, mean)
        return y.view(x.shape).to(dtype), slope.log().view(x.shape).to(dtype)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``y`` of shape S with parameters (param_count, *S); returns x and log|dx/dy|."""
        flat, raw, dtype = flat_elements(self, y, params)
        x, ladj = invert(self._compressed, flat.asinh(), raw, self.root, "SumOfSquares")
        ladj = ladj - _log_cosh_asinh(flat)
        return x.view(y.shape).to(dtype), ladj.view(y.shape).to(dtype)

    def _compressed(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """The arsinh of the map, which grows as a logarithm.

        Newton's method on the bare power of x closes in by a factor 2R / (2R + 1) at each step
        while x is far too large, and starts at x = y, which is.
        """
        y, ladj = self.forward(x, params)
        return y.asinh(), ladj - _log_cosh_asinh(y)

    def _slope(self, points: Tensor, raw: Tensor) -> Tensor:
        """The derivative at ``points`` (nodes + 1, n), given the raw coefficients (rows, n)."""
        reach = 1.0 if self.count > 1 else 0.0
        centres = torch.linspace(-reach, reach, self.count, dtype=raw.dtype, device=raw.device)
        offsets = (points.unsqueeze(1) - centres.unsqueeze(1)) / self.scale
        constant, *rising = raw.view(self.degree + 1, self.count, -1).unbind(0)  # (count, n) each
        value = rising[-1]  # becomes (nodes + 1, count, n)
        start = math.sqrt((1 - self.min_slope) / self.count)
        for coefficients in (*rising[-2::-1], constant + start):
            value = torch.addcmul(coefficients, value, offsets)
        return value.square().sum(1) + self.min_slope


def _log_cosh_asinh(y: Tensor) -> Tensor:
    """Minus the log-derivative of arsinh; no square of y, which may overflow."""
    return torch.hypot(y, y.new_ones(())).log()
