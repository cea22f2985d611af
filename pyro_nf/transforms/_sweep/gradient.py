"""The gradient of a sweep: one dense pass, and one walk from the last input to the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_nf._recorded import must_record, recorded_gradient
from pyro_nf.nn._features import encode, encoding_slopes
from pyro_nf.transforms._sweep.walk import Buffer, Growing, Plan, walk


class Sweep(torch.autograd.Function):
    """The walk without a graph, differentiated by a walk in reverse.

    It has no rule for ``torch.func.vmap``: under functorch the caller takes the recorded path. A
    mapped backward (``is_grads_batched``) and a second derivative take it here.
    """

    @staticmethod
    def forward(plan: Plan, y: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Solves for x and ladj, (D, N), given every layer's weight, then every shift."""
        layers = len(plan.blocks)
        return walk(plan, y, tensors[:layers], tensors[layers:], Buffer)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        """Keeps the solution and the inputs: the backward evaluates the units anew."""
        ctx.plan, *tensors = inputs
        ctx.save_for_backward(output[0], *tensors)

    @staticmethod
    def backward(ctx: Any, x_grad: Tensor, ladj_grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of y, the weights and the shifts."""
        x, y, *tensors = ctx.saved_tensors
        layers = len(ctx.plan.blocks)
        weights, shifts = tensors[:layers], tensors[layers:]
        if must_record(x_grad, ladj_grad):

            def growing(y: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
                return walk(ctx.plan, y, tensors[:layers], tensors[layers:], Growing)

            return (None, *recorded_gradient(growing, (y, *tensors), (x_grad, ladj_grad)))
        return (None, *_reversed(ctx.plan, x, y, weights, shifts, x_grad, ladj_grad))


def _reversed(
    plan: Plan,
    x: Tensor,
    y: Tensor,
    weights: Sequence[Tensor],
    shifts: Sequence[Tensor],
    x_grad: Tensor,
    ladj_grad: Tensor,
) -> list[Tensor]:
    """Differentiates the solution exactly, without a graph of the walk.

    1. One dense pass at the solution gives the input of every layer and the activations' slopes.
    2. One elementwise call gives the partial derivatives of x and ladj by y and the parameters.
    3. From the last input to the first: the total gradient of x_p is complete once all units of a
       degree above p are; it gives those of its parameters, these those of the units of degree p,
       last layer first.
    4. One matrix product gives the gradient of each layer's weight.
    """
    inputs, slopes = [encode(plan.features, x)], []
    for weight, shift, activation, skip in zip(
        weights[:-1], shifts[:-1], plan.activations, plan.skips, strict=True
    ):
        change, slope = _value_and_slope(activation, torch.addmm(shift, weight, inputs[-1]))
        inputs.append(inputs[-1] + change if skip else change)
        slopes.append(slope)

    params = torch.addmm(shifts[-1], weights[-1], inputs[-1])  # (D * P, N)
    with torch.enable_grad():
        y, params = y.detach().requires_grad_(), params.requires_grad_()
        leading = params.unflatten(0, (y.shape[0], -1)).transpose(0, 1)  # (P, D, N)
        outputs = plan.bijection.inverse_at(x, y, leading)
        x_by_y, x_by_params = _pull_back(outputs[0], (y, params), torch.ones_like(x_grad))
        y_grad, params_grad = _pull_back(outputs[1], (y, params), ladj_grad)

    x_grad, params_grad = x_grad.clone(), params_grad.clone()
    grads = [*map(torch.zeros_like, slopes), params_grad]
    read_slopes = encoding_slopes(inputs[0]) if plan.features == "periodic" else None
    _reverse_walk(plan, weights, slopes, x_by_params, read_slopes, x_grad, grads)

    weight_grads = [grad @ source.t() for grad, source in zip(grads, inputs, strict=True)]
    return [torch.addcmul(y_grad, x_grad, x_by_y), *weight_grads, *grads]


def _reverse_walk(
    plan: Plan,
    weights: Sequence[Tensor],
    slopes: Sequence[Tensor],
    x_by_params: Tensor,
    read_slopes: Tensor | None,
    x_grad: Tensor,
    grads: Sequence[Tensor],
) -> None:
    """Completes ``x_grad`` and ``grads`` (one for each layer, before its activation) in place."""
    x_rows, x_columns = x_grad.unbind(0), weights[0].unbind(1)
    grad_blocks = [b.split(g) for b, g in zip(plan.blocks, grads, strict=True)]
    slope_blocks = [b.split(s) for b, s in zip(plan.blocks[:-1], slopes, strict=True)]
    # columns[i][p]: what the units of degree p in layer i give to the layer after, transposed.
    columns = [b.split(w.t()) for b, w in zip(plan.blocks[:-1], weights[1:], strict=True)]
    param_blocks = plan.blocks[-1].split(x_by_params)
    last = len(slopes) - 1

    for p in reversed(range(len(x_rows))):
        start = plan.blocks[0].stops[p]
        if read_slopes is None:
            x_rows[p].addmv_(grads[0][start:].t(), x_columns[p][start:])
        else:
            for column, slope in zip(x_columns[2 * p : 2 * p + 2], read_slopes[p], strict=True):
                x_rows[p].addcmul_(grads[0][start:].t() @ column[start:], slope)
        grad_blocks[-1][p].addcmul_(param_blocks[p], x_rows[p])
        above = x_rows[p]  # the gradient of the units above, where a skip needs it
        for i in range(last, -1, -1):
            if plan.blocks[i].sizes[p] == 0:
                continue
            start = plan.blocks[i + 1].starts[p]
            unit_grad = columns[i][p][:, start:] @ grads[i + 1][start:]
            if i < last and plan.skips[i + 1]:
                unit_grad = unit_grad + above
            grad_blocks[i][p].addcmul_(unit_grad, slope_blocks[i][p])
            above = unit_grad


def _value_and_slope(activation: Callable[[Tensor], Tensor], pre: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluates an elementwise function and its derivative."""
    with torch.enable_grad():
        pre = pre.detach().requires_grad_()
        value = activation(pre)
        (slope,) = _pull_back(value, (pre,), torch.ones_like(pre))
    return value.detach(), slope


def _pull_back(output: Tensor, inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    """Pulls a gradient back; zeros where the output does not depend on an input."""
    if not output.requires_grad:
        return tuple(torch.zeros_like(tensor) for tensor in inputs)
    return torch.autograd.grad(
        output, inputs, grad, retain_graph=True, allow_unused=True, materialize_grads=True
    )
