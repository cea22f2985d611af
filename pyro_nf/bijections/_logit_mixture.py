"""The logit of a mixture of sigmoids, in log space: what sigmoidal flows and Flow++ share.

With weights w ∝ exp(logits), P = Σ w σ(u) and Q = Σ w σ(-u),

    y = log P - log Q,    dy/dx = Σ w σ(u) σ(-u) u' / (P Q),    u' = du/dx.

Sums run over exponentials of logarithms whose largest is subtracted, and those subtracted from
the numerator are the ones subtracted from P and Q. So nothing saturates in the tails, where y and
the logarithms grow like x and only their differences count, nor on a plateau between units, where
the slope itself underflows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_nf._tracing import is_traced

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


class _Terms(NamedTuple):
    """The result, and three sums over units: their terms up to a factor, and what they add to."""

    y: Tensor  # (..., n)
    ladj: Tensor
    below: Tensor  # of P, (..., K, n)
    below_sum: Tensor  # (..., n)
    above: Tensor  # of Q
    above_sum: Tensor
    steep: Tensor  # of the slope's numerator
    steep_sum: Tensor


def logit_mixture(u: Tensor, log_rate: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mixes units by plain operations.

    Args:
        u: The units' arguments, shape ``(K, n)``.
        log_rate: Their log du/dx, shape ``(K, n)``.
        logits: Unnormalised log-weights, shape ``(..., K, n)``.

    Returns:
        y and log dy/dx, both ``(..., n)``.
    """
    terms = _evaluate(F.logsigmoid(u), F.logsigmoid(-u), log_rate, logits)
    return terms.y, terms.ladj


def mix_affine_units(
    x: Tensor, slope: Tensor, shift: Tensor, logits: Tensor
) -> tuple[Tensor, Tensor]:
    """Mixes the units u = slope · x + shift; the gradient is in closed form.

    Args:
        x: Shape ``(n,)``.
        slope: Shape ``(K, n)``, positive.
        shift: Shape ``(K, n)``.
        logits: Unnormalised log-weights, shape ``(K, n)``.

    Returns:
        y and log dy/dx, both ``(n,)``.
    """
    tensors = (x, slope, shift, logits)
    differentiated = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    # Tracers make their own backward, and forward mode, of plain operations.
    if differentiated and not is_traced():
        y, ladj, *_ = AffineUnits.apply(*tensors)
        return y, ladj
    return logit_mixture(torch.addcmul(shift, slope, x), slope.log(), logits)


def _evaluate(log_on: Tensor, log_off: Tensor, log_rate: Tensor, logits: Tensor) -> _Terms:
    """Mixes units of log σ(u) = ``log_on`` and log σ(-u) = ``log_off``."""
    log_below, log_above = logits + log_on, logits + log_off
    log_below, top_below = _below_zero(log_below)
    log_above, top_above = _below_zero(log_above)
    log_steep, top_steep = _below_zero(log_below + log_above - logits + log_rate)
    below, above, steep = log_below.exp(), log_above.exp(), log_steep.exp()
    sums = below.sum(-2), above.sum(-2), steep.sum(-2)
    log_p, log_q, log_slope = (part.log() for part in sums)
    p, q = log_p + top_below, log_q + top_above
    # The weights' normaliser, Σ exp(logits) = exp(p) + exp(q).
    ladj = log_slope + top_steep - log_p - log_q + torch.logaddexp(p, q)
    return _Terms(p - q, ladj, below, sums[0], above, sums[1], steep, sums[2])


def _below_zero(logs: Tensor) -> tuple[Tensor, Tensor]:
    """Subtracts the largest over the units, and returns it: it cancels, so it is a constant."""
    top = logs.detach().amax(-2)
    return logs - top.unsqueeze(-2), top


class AffineUnits(torch.autograd.Function):
    """``mix_affine_units`` with its gradient in closed form, from the units' shares."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, slope: Tensor, shift: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
        """Returns y and log dy/dx, then what backward reads."""
        u = torch.addcmul(shift, slope, x)
        log_on = F.logsigmoid(u)
        return *_evaluate(log_on, log_on - u, slope.log(), logits), u

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps the inputs for a second derivative, and all terms for the first."""
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)
        y = output[0].detach()
        ctx.save_for_backward(*inputs, y, *output[2:])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor, ...]:
        """Returns the gradients of x, slope, shift and logits."""
        x, slope, shift, logits, y, *sums, u = ctx.saved_tensors
        g_y, g_ladj = (torch.zeros_like(y) if g is None else g for g in upstream[:2])
        terms = _Terms(y, y, *sums)  # the gradient does not read ladj
        if torch.is_grad_enabled():
            # The saved terms are constants to autograd: a second derivative starts at the inputs.
            u = torch.addcmul(shift, slope, x)
            terms = _evaluate(F.logsigmoid(u), F.logsigmoid(-u), slope.log(), logits)
        g_slope, g_shift, g_logits = _gradient(x, slope, u, terms, g_y, g_ladj)
        return (g_shift * slope).sum(-2), g_slope, g_shift, g_logits


def _gradient(
    x: Tensor, slope: Tensor, u: Tensor, terms: _Terms, g_y: Tensor, g_ladj: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Creates the gradients of slope, shift and logits.

    With the units' shares r, t and d of the sums below, above and steep, the derivatives by u of
    log P, log Q and the slope's logarithm are r σ(-u), -t σ(u) and d (1 - 2 σ(u)); those by the
    logits are r, t and d. That of the normaliser by the logits is P r + Q t.
    """
    y, _, below, below_sum, above, above_sum, steep, steep_sum = terms
    bend = steep * (g_ladj / steep_sum)
    low = torch.addcmul(bend, below, (g_y - g_ladj) / below_sum)
    high = torch.addcmul(-bend, above, (g_y + g_ladj) / above_sum)
    # Not 1 - σ(u): on a plateau dy/dx = Σ (r σ(-u) + t σ(u)) a is a sum of tiny positive terms.
    g_u = torch.addcmul(low * torch.sigmoid(-u), high, torch.sigmoid(u))
    g_logits = torch.addcmul(low - high - bend, below, g_ladj * torch.sigmoid(y) / below_sum)
    g_logits = torch.addcmul(g_logits, above, g_ladj * torch.sigmoid(-y) / above_sum)
    return torch.addcdiv(g_u * x, bend, slope), g_u, g_logits
