"""The gradient of a sweep: one elementwise pass, and one walk from the last input to the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_nf._recorded import must_record, recorded_gradient, without_autocast
from pyro_nf.bijections._closed_form import is_closed_form
from pyro_nf.nn._features import encoding_slopes
from pyro_nf.transforms._sweep.solution import Solution, solve
from pyro_nf.transforms._sweep.walk import Plan, walk


class Sweep(torch.autograd.Function):
    """The walk without a graph, differentiated by a walk in reverse.

    It has no rule for ``torch.func.vmap``: under functorch the caller takes the recorded path. A
    mapped backward (``is_grads_batched``) and a second derivative take it here.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, y: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Solves for x and ladj, (D, N), given every layer's weight, then every shift."""
        layers = len(plan.blocks)
        found = solve(plan, y, tensors[:layers], tensors[layers:])
        ctx.plan = plan
        ctx.save_for_backward(y, *tensors, found.x, found.ladj, found.params, *found.sources)
        return found.x, found.ladj

    @staticmethod
    @without_autocast
    def backward(ctx: Any, x_grad: Tensor, ladj_grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of y, the weights and the shifts."""
        plan, layers = ctx.plan, len(ctx.plan.blocks)
        y, *saved = ctx.saved_tensors
        tensors, (x, ladj, params, *sources) = saved[: 2 * layers], saved[2 * layers :]
        if must_record(x_grad, ladj_grad):

            def record(y: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
                return walk(plan, y, tensors[:layers], tensors[layers:])

            return (None, *recorded_gradient(record, (y, *tensors), (x_grad, ladj_grad)))
        found = Solution(x, ladj, params, sources)
        weights, shifts = tensors[:layers], tensors[layers:]
        return (None, *_reversed(plan, y, weights, shifts, found, x_grad, ladj_grad))


class _Partials(NamedTuple):
    """The derivatives of the elementwise inverse: of x itself, and of ladj times its gradient."""

    x_by_y: Tensor  # (D, N)
    x_by_params: Tensor  # (P, D, N)
    y_grad: Tensor  # (D, N)
    params_grad: Tensor  # (P, D, N)


def _reversed(
    plan: Plan,
    y: Tensor,
    weights: Sequence[Tensor],
    shifts: Sequence[Tensor],
    found: Solution,
    x_grad: Tensor,
    ladj_grad: Tensor,
) -> list[Tensor]:
    """Differentiates the solution exactly, without a graph of the walk.

    1. One elementwise pass gives the slopes of the activations, another the partial derivatives
       of x and ladj by y and the parameters.
    2. From the last input to the first: the total gradient of x_p is complete once all units of a
       degree above p are; it gives those of its parameters, these those of the units of degree p,
       last layer first.
    3. One matrix product gives the gradient of each layer's weight.
    """
    slopes = _slopes(plan, found.sources, weights, shifts)
    partials = _partials(plan, y, found, ladj_grad)
    x_grad = x_grad.clone(memory_format=torch.contiguous_format)
    params_grad = partials.params_grad.transpose(0, 1).flatten(0, 1)  # (D * P, N)
    grads = [*map(torch.empty_like, slopes), params_grad]
    _reverse_walk(plan, weights, slopes, partials.x_by_params, found.sources[0], x_grad, grads)
    weight_grads = [grad @ source.t() for grad, source in zip(grads, found.sources, strict=True)]
    return [torch.addcmul(partials.y_grad, x_grad, partials.x_by_y), *weight_grads, *grads]


def _slopes(
    plan: Plan, sources: Sequence[Tensor], weights: Sequence[Tensor], shifts: Sequence[Tensor]
) -> list[Tensor]:
    """The slopes of each hidden layer's activations, by their results where that is possible."""
    if plan.in_place is not None:
        return [
            form.multiply_by_slope(torch.ones_like(units), units)
            for form, units in zip(plan.in_place, sources[1:], strict=True)
        ]
    return [
        _slope(activation, torch.addmm(shift, weight, source))
        for activation, shift, weight, source in zip(
            plan.activations, shifts[:-1], weights[:-1], sources[:-1], strict=True
        )
    ]


def _partials(plan: Plan, y: Tensor, found: Solution, ladj_grad: Tensor) -> _Partials:
    """Differentiates the inverse at the solution, without its dependence through the network."""
    bijection, shape = plan.bijection, (plan.bijection.param_count, *y.shape)
    params = found.params.view(y.shape[0], shape[0], y.shape[1]).transpose(0, 1)  # (P, D, N)
    if is_closed_form(bijection, y.dtype):
        flat = y.flatten()
        saved = bijection.solve(flat, params.flatten(1), "inverse")[2]
        one, zero = torch.ones_like(flat), torch.zeros_like(flat)
        by_value = bijection.pull_back(saved, one, zero, "inverse")
        by_ladj = bijection.pull_back(saved, zero, ladj_grad.flatten(), "inverse")
        x_by_y, y_grad = by_value[0].view(y.shape), by_ladj[0].view(y.shape)
        return _Partials(x_by_y, by_value[1].view(shape), y_grad, by_ladj[1].view(shape))
    with torch.enable_grad():
        y, params = y.detach().requires_grad_(), params.detach().requires_grad_()
        x, ladj = bijection.inverse_at(found.x, y, params)
        of_x = _pull_back(x, (y, params), torch.ones_like(y))
        return _Partials(*of_x, *_pull_back(ladj, (y, params), ladj_grad))


def _reverse_walk(
    plan: Plan,
    weights: Sequence[Tensor],
    slopes: Sequence[Tensor],
    x_by_params: Tensor,
    read: Tensor,
    x_grad: Tensor,
    grads: Sequence[Tensor],
) -> None:
    """Completes ``x_grad`` and ``grads`` (one for each layer, before its activation) in place."""
    x_rows, x_columns = x_grad.unbind(0), weights[0].unbind(1)
    read_slopes = encoding_slopes(read) if plan.features == "periodic" else None
    grad_blocks = [b.split(g) for b, g in zip(plan.blocks, grads, strict=True)]
    slope_blocks = [b.split(s) for b, s in zip(plan.blocks, slopes, strict=False)]
    # columns[i][p]: what the units of degree p in layer i give to the layer after, transposed.
    columns = [b.split(w.t()) for b, w in zip(plan.blocks, weights[1:], strict=False)]
    param_blocks = x_by_params.unbind(1)
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
            unit_grad = torch.mm(columns[i][p][:, start:], grads[i + 1][start:])
            if i < last and plan.skips[i + 1]:
                unit_grad += above
            torch.mul(unit_grad, slope_blocks[i][p], out=grad_blocks[i][p])
            above = unit_grad


def _slope(activation: Callable[[Tensor], Tensor], pre: Tensor) -> Tensor:
    """The derivative of an elementwise function."""
    with torch.enable_grad():
        # An activation may work in place, which a leaf does not allow.
        leaf = pre.detach().requires_grad_()
        return _pull_back(activation(leaf.clone()), (leaf,), torch.ones_like(pre))[0]


def _pull_back(output: Tensor, inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    """Pulls a gradient back; zeros where the output does not depend on an input."""
    if not output.requires_grad:
        return tuple(torch.zeros_like(tensor) for tensor in inputs)
    return torch.autograd.grad(
        output, inputs, grad, retain_graph=True, allow_unused=True, materialize_grads=True
    )
