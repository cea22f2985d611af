"""The two-sided tail probability of the normal distribution, in log space, and its inverse.

With T(z) = P(|Z| > z) = erfc(z / √2) for a standard normal Z and z ≥ 0, all here is in terms of
L = -log T, which grows as z²/2 and never underflows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_nf._tracing import is_traced

_NEWTON_STEPS = 5  # four reach float64's last digits from the start below, for every L


def log_tail(z: Tensor) -> Tensor:
    """L(z) = -log erfc(z / √2) for z ≥ 0."""
    return 0.5 * z.square() - log_erfcx(z)


def log_erfcx(z: Tensor) -> Tensor:
    """The logarithm of erfcx(z / √2) = exp(z² / 2) erfc(z / √2)."""
    return torch.special.erfcx(z * math.sqrt(0.5)).log()


def log_tail_slope(z: Tensor) -> Tensor:
    """L'(z) = √(2/π) / erfcx(z / √2)."""
    return math.sqrt(2 / math.pi) / torch.special.erfcx(z * math.sqrt(0.5))


def tail_quantile(level: Tensor) -> Tensor:
    """The z ≥ 0 with L(z) = ``level``, for a finite ``level`` ≥ 0.

    L is convex and both L ≥ z²/2 and L ≥ √(2/π) z, so Newton's steps fall monotonically from the
    smaller of √(2L) and √(π/2) L. Derivatives come from two more steps at the root, as for every
    numerical inverse of this package.
    """
    with torch.no_grad():
        fixed = level.detach()
        z = torch.minimum((2 * fixed).sqrt(), math.sqrt(math.pi / 2) * fixed)
        for _ in range(_NEWTON_STEPS):
            z = _newton(z, fixed)
    if is_traced() or (torch.is_grad_enabled() and level.requires_grad):
        for _ in range(2):
            z = _newton(z, level)
    return z


def _newton(z: Tensor, level: Tensor) -> Tensor:
    return z - (log_tail(z) - level) / log_tail_slope(z)
