"""One hidden layer of a block network: its values and the slopes along its diagonal blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_nf._tracing import is_traced
from pyro_nf.nn._monotone import Monotone


def activate(activation: Monotone, pre: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Activates the units and multiplies their slopes into those before.

    The product is returned in two factors, :math:`s_{dj} e^{m_d}`, so that saturated units, whose
    slopes underflow, lose nothing: the largest factor s of each block is of order 1.

    Args:
        activation: The activation.
        pre: The units before their activation, ``(D, b, N)``.
        slopes: Their slopes with respect to the inputs, ``(D, b, N)``.

    Returns:
        The units, ``(D, b, N)``, the factors s, ``(D, b, N)``, and m, ``(D, 1, N)``, which is a
        constant to every derivative: what it takes away, s has.
    """
    if is_traced():
        log_slope = activation.log_slope(pre)
        log_scale = log_slope.detach().amax(1, keepdim=True)
        return activation.value(pre), slopes * torch.exp(log_slope - log_scale), log_scale
    if torch.is_grad_enabled():
        return _Activate.apply(activation, pre, slopes)[:3]
    value = activation.value(pre)
    factor, log_scale = activation.scaled_slope(pre, value)
    return value, factor.mul_(slopes), log_scale


class _Activate(torch.autograd.Function):
    """Fewer passes over memory than plain operations, forward and backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        activation: Monotone, pre: Tensor, slopes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns values, scaled products, the scales' logarithms and the scaled slopes."""
        value = activation.value(pre)
        factor, log_scale = activation.scaled_slope(pre, value)
        return value, slopes * factor, log_scale, factor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        """Keeps the input, the values and the factors."""
        ctx.activation, pre, slopes = inputs
        value, _, log_scale, factor = output
        ctx.mark_non_differentiable(log_scale, factor)
        ctx.set_materialize_grads(True)
        ctx.save_for_backward(pre, slopes, value, log_scale, factor)

    @staticmethod
    def backward(
        ctx: Any, value_grad: Tensor, scaled_grad: Tensor, *_: Tensor
    ) -> tuple[None, Tensor, Tensor]:
        """Returns the gradients of the units before activation and of the slopes."""
        pre, slopes, value, log_scale, factor = ctx.saved_tensors
        activation = ctx.activation
        if torch.is_grad_enabled():  # a second derivative: the factor depends on pre
            factor = torch.exp(activation.log_slope(pre) - log_scale)
        slopes_grad = scaled_grad * factor
        pre_grad = value_grad * activation.slope(pre, value)
        pre_grad = pre_grad + slopes_grad * slopes * activation.bend(pre, value)
        return None, pre_grad, slopes_grad
