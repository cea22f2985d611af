"""Mixtures of increasing units with a kink at 0, ``T⁻¹(Σ w T(u))``: ELU and leaky ReLU."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAK = 0.01


def elu_mixture(u: Tensor, slope: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mixes exponential linear units, T(u) = u above 0 and exp(u) - 1 below.

    Below 0 the result is log(Σ w (1 + T(u))), a logarithm of a sum of exponentials, whose largest
    is subtracted there and from the slope alike: nothing saturates as x falls.

    Args:
        u: The units' arguments, ``(K, n)``.
        slope: Their du/dx, ``(K, n)``.
        logits: Unnormalised log-weights, ``(K, n)``.

    Returns:
        y and log dy/dx, both ``(n,)``.
    """
    weight, log_weight = logits.softmax(0), logits.log_softmax(0)
    low, high = u.clamp(max=0), u.clamp(min=0)
    mean = (weight * (high + low.expm1())).sum(0)
    log_parts = log_weight + low + high.log1p()  # log w (1 + T(u))
    top = log_parts.detach().amax(0)
    log_sum = (log_parts - top).exp().sum(0).log()
    above = top + log_sum > 0  # NaN is not

    log_slopes = log_weight + low
    steep = log_slopes.detach().amax(0)
    log_slope = (slope * (log_slopes - steep).exp()).sum(0).log()
    y = torch.where(above, mean, top + log_sum)
    return y, log_slope + torch.where(above, steep, (steep - top) - log_sum)


def leaky_mixture(u: Tensor, slope: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mixes leaky rectified units, T(u) = u above 0 and u / 100 below: a piecewise line.

    Args:
        u: The units' arguments, ``(K, n)``.
        slope: Their du/dx, ``(K, n)``.
        logits: Unnormalised log-weights, ``(K, n)``.

    Returns:
        y and log dy/dx, both ``(n,)``.
    """
    weight = logits.softmax(0)
    leak = torch.where(u > 0, torch.ones_like(u), LEAK) + 0 * u  # NaN where u is not finite
    mean = (weight * leak * u).sum(0)
    log_slope = (weight * leak * slope).sum(0).log()
    y = torch.where(mean > 0, mean, mean / LEAK)
    return y, torch.where(mean > 0, log_slope, log_slope - math.log(LEAK))
