"""The logit of a mixture of sigmoids, in log space: what sigmoidal flows and Flow++ share.

With weights w ∝ exp(logits), P = Σ w σ(u) and Q = Σ w σ(-u),

    y = log P - log Q,    dy/dx = Σ w σ(u) σ(-u) u' / (P Q),    u' = du/dx.

Sums run over exponentials of logarithms whose largest is subtracted, and those subtracted from
the numerator are the ones subtracted from P and Q. So nothing saturates in the tails, where y and
the logarithms grow like x and only their differences count, nor on a plateau between units, where
the slope itself underflows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Units of this slope and of weights exp(-|center|) add up to nearly the identity.
SPREAD_SLOPE = 4 / 3


def spread(count: int, reach: float, like: Tensor) -> Tensor:
    """Evenly spread values ``(count, 1)`` in [-reach, reach]; 0 if there is one."""
    if count == 1:
        return like.new_zeros(1, 1)
    return torch.linspace(-reach, reach, count, dtype=like.dtype, device=like.device)[:, None]


def centers(count: int, like: Tensor, reach: float = 4.0) -> Tensor:
    """Centres ``(count, 1)`` for the units of a fresh mixture, within ±reach.

    Units that start equal receive equal gradients for ever, so a fresh mixture's units differ.
    With slopes 4/3, weights ∝ exp(-|centre|) and reach 4 the mixture is within 0.13 of the
    identity on [-3, 3] for 4 units or more.
    """
    return spread(count, reach * (count - 1) / (count + 1), like)


def logit_mixture(u: Tensor, log_rate: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mixes units.

    Args:
        u: The units' arguments, shape ``(K, n)``.
        log_rate: Their log du/dx, shape ``(K, n)``.
        logits: Unnormalised log-weights, shape ``(..., K, n)``.

    Returns:
        y and log dy/dx, both ``(..., n)``.
    """
    # Not log σ(-u) = log σ(u) - u: its derivative would lose the tiny slopes of a plateau.
    log_below, top_below = _below_zero(logits + F.logsigmoid(u))
    log_above, top_above = _below_zero(logits + F.logsigmoid(-u))
    log_steep, top_steep = _below_zero(log_below + log_above - logits + log_rate)
    log_p, log_q, log_slope = _log_sum(log_below), _log_sum(log_above), _log_sum(log_steep)
    p, q = log_p + top_below, log_q + top_above
    # The weights' normaliser, Σ exp(logits) = exp(p) + exp(q).
    return p - q, log_slope + top_steep - log_p - log_q + torch.logaddexp(p, q)


def mix_affine_units(
    x: Tensor, slope: Tensor, shift: Tensor, logits: Tensor
) -> tuple[Tensor, Tensor]:
    """Mixes the units u = slope · x + shift.

    Args:
        x: Shape ``(n,)``.
        slope: Shape ``(K, n)``, positive.
        shift: Shape ``(K, n)``.
        logits: Unnormalised log-weights, shape ``(K, n)``.

    Returns:
        y and log dy/dx, both ``(n,)``.
    """
    return logit_mixture(torch.addcmul(shift, slope, x), slope.log(), logits)


def _below_zero(logs: Tensor) -> tuple[Tensor, Tensor]:
    """Subtracts the largest over the units, and returns it: it cancels, so it is a constant."""
    top = logs.detach().amax(-2)
    return logs - top.unsqueeze(-2), top


def _log_sum(logs: Tensor) -> Tensor:
    return logs.exp().sum(-2).log()
