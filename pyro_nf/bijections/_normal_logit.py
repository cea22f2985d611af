"""The logit of the normal distribution function, f(z) = log Φ(z) - log Φ(-z), and its inverse.

It turns normal units into sigmoid units, for σ(f(z)) = Φ(z). In the tails f grows like z²/2, and
never saturates as Φ does.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_nf.bijections._root import implicit

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_LOG_2 = math.log(2)
_FAR = 10.0  # from here on the tail's series
# (-1)ᵏ (2k - 1)!!: from a = 10 on, 7 terms reach the last digit of float32, 18 that of float64.
_SERIES = tuple((-1.0) ** k * math.prod(range(1, 2 * k, 2)) for k in range(1, 19))


def logit_ndtr(z: Tensor, params: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Evaluates f and log f' of any real z, elementwise.

    With a = |z| and E = log(Φ(-a) exp(a²/2)), which the scaled complementary error function gives
    without underflow, log Φ(-a) = E - a²/2, and log f' = log φ - log Φ(a) - log Φ(-a) has no a²/2
    left in it.
    """
    del params
    above = z > 0
    a = torch.where(above, z, -z)  # not abs, whose derivative at 0 belongs to neither side
    scaled = _log_scaled_tail(a)
    log_lower = scaled - 0.5 * a.square()
    log_upper = torch.log1p(-log_lower.exp())
    gap = log_upper - log_lower
    return torch.where(above, gap, -gap), -_HALF_LOG_2PI - scaled - log_upper


def _log_scaled_tail(a: Tensor) -> Tensor:
    """Computes E = log(Φ(-a) exp(a²/2)) of a >= 0.

    Far out by the asymptotic series of Φ(-a) / φ(a) = (1 + Σ (-1)ᵏ (2k - 1)!! / a²ᵏ) / a: the
    derivative of the complementary error function is a difference that loses a² there.
    """
    near = torch.special.erfcx(a.clamp(max=_FAR) * math.sqrt(0.5)).log() - _LOG_2
    far = a.clamp(min=_FAR)
    inverse_square = far.square().reciprocal()
    terms = _SERIES if a.dtype == torch.float64 else _SERIES[:7]
    series = torch.zeros_like(a)
    for term in reversed(terms):
        series = (series + term) * inverse_square
    return torch.where(a > _FAR, series.log1p() - far.log() - _HALF_LOG_2PI, near)


def ndtri_of_logit(logit: Tensor) -> Tensor:
    """Computes Φ⁻¹(σ(logit)), elementwise, at any finite logit.

    From a rational start that is right within 4.5e-4 (Abramowitz & Stegun, 26.2.23, which reads
    the logarithm of the tail), three Newton steps reach the last digit of float64.
    """
    fixed = logit.detach()
    r = (2 * torch.nn.functional.softplus(fixed.abs(), threshold=40)).sqrt()
    top = 2.515517 + r * (0.802853 + r * 0.010328)
    z = fixed.sign() * (r - top / (1 + r * (1.432788 + r * (0.189269 + r * 0.001308))))
    for _ in range(3):
        value, log_slope = logit_ndtr(z)
        z = z - (value - fixed) * torch.exp(-log_slope)
    return implicit(logit_ndtr, z, logit, logit[None])
