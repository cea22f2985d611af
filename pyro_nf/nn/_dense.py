"""A stack of dense layers as one node of the graph, for plain reverse mode.

Recorded operation by operation, half of a small network's time goes to autograd's bookkeeping, and
of a large one's a third to memory: each activation, and each of their gradients, is a fresh tensor
whose pages the system has to hand over. Here both directions work in place on what the matrix
products have just written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_nf._recorded import must_record, recorded_gradient, without_autocast
from pyro_nf._tracing import is_traced
from pyro_nf.nn._bands import (
    Bands,
    banded_input_grad,
    banded_rows,
    banded_weight_grad,
    bands_of,
)
from pyro_nf.nn._linear import Linear, spread
from pyro_nf.nn._products import product, shifted_product

aten: Any = torch.ops.aten


class InPlace(NamedTuple):
    """An activation that can be applied in place, and differentiated by its own result."""

    apply: Callable[[Tensor], Tensor]
    multiply_by_slope: Callable[[Tensor, Tensor], Tensor]  # of a gradient and the result


_IN_PLACE: dict[type[nn.Module], InPlace] = {
    nn.ReLU: InPlace(
        torch.relu_,
        lambda grad, h: aten.threshold_backward.grad_input(grad, h, 0, grad_input=grad),
    ),
    nn.Tanh: InPlace(
        torch.tanh_, lambda grad, h: aten.tanh_backward.grad_input(grad, h, grad_input=grad)
    ),
    nn.Sigmoid: InPlace(
        torch.sigmoid_, lambda grad, h: aten.sigmoid_backward.grad_input(grad, h, grad_input=grad)
    ),
}


class Stack(NamedTuple):
    """All of a stack that is no tensor that needs a gradient.

    Attributes:
        activations: One for each layer but the last.
        masks: One for each layer, None where there is none.
        bands: Of each mask, None where the product is dense.
    """

    activations: tuple[InPlace, ...]
    masks: tuple[Tensor | None, ...]
    bands: tuple[Bands | None, ...]


class Values(NamedTuple):
    """What a stack computed on the way to its output.

    Attributes:
        hidden: The hidden layers in rows, ``(N, H)``.
        weights: The weights with their masks applied.
    """

    hidden: list[Tensor]
    weights: list[Tensor]


def in_place_forms(
    linears: Iterable[nn.Module], activations: Iterable[nn.Module], x: Tensor
) -> tuple[InPlace, ...] | None:
    """Finds the in-place forms of a network's activations.

    Returns:
        One for each, or None where the network has to be recorded: an activation has no such form,
        a hook looks on, a layer was exchanged, or autocast or a tracer follows each operation.
    """
    if is_followed(x):
        return None
    for module in linears:
        if type(module).forward is not Linear.forward or is_hooked(module):
            return None
    return in_place_activations(activations)


def is_followed(x: Tensor) -> bool:
    """Whether a tracer or autocast follows each operation, so that all must be recorded."""
    return is_traced() or (x.device.type != "meta" and torch.is_autocast_enabled(x.device.type))


def in_place_activations(activations: Iterable[nn.Module]) -> tuple[InPlace, ...] | None:
    """Finds the activations' forms; None if one has none, or is hooked."""
    forms = []
    for module in activations:
        form = _IN_PLACE.get(type(module))
        if form is None or is_hooked(module):
            return None
        forms.append(form)
    return tuple(forms)


def is_hooked(module: nn.Module) -> bool:
    """Whether anything but its class says what a call of the module does."""
    return bool(
        "forward" in module.__dict__
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def evaluate_in_place(
    linears: Sequence[Linear],
    activations: tuple[InPlace, ...],
    x: Tensor,
    context: Tensor | None,
) -> Tensor:
    """Runs the layers on x ``(input_dim, *batch)``, to ``(output_dim, *batch)``."""
    batch = x.shape[1:]
    stack, tensors = stack_of(linears, activations, batch, context)
    rows = x if x.ndim == 2 else x.reshape(x.shape[0], math.prod(batch))
    if torch.is_grad_enabled():
        output = DenseStack.apply(stack, rows, *tensors)
    else:
        output = run(stack, rows, tensors)[0]
    return output if x.ndim == 2 else output.reshape(output.shape[0], *batch)


def stack_of(
    linears: Sequence[Linear],
    activations: tuple[InPlace, ...],
    batch: torch.Size,
    context: Tensor | None,
) -> tuple[Stack, list[Tensor]]:
    """Reads the layers: the stack, and each one's weight, then each one's shift for the batch."""
    shifts = [linear.shift(context) for linear in linears]
    shifts = [shift if shift.ndim == 1 else spread(shift, batch) for shift in shifts]
    masks, rows = tuple(linear.mask for linear in linears), math.prod(batch)
    # The last layer's rows are sorted by parameter, not by what they read.
    bands = *(bands_of(mask, rows) for mask in masks[:-1]), None
    stack = Stack(activations, masks, bands)
    return stack, [*(linear.weight for linear in linears), *shifts]


def run(stack: Stack, x: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, Values]:
    """Evaluates the layers, in place where that cannot be seen.

    Args:
        stack: All that is no differentiable tensor.
        x: Shape ``(I, N)``.
        tensors: Each layer's weight, then each layer's shift, ``(rows,)`` or ``(rows, N)``.

    Returns:
        The output ``(O, N)``, and what :func:`pull_back` reads of it.
    """
    layers = len(stack.masks)
    weights = [w if m is None else w * m for w, m in zip(tensors, stack.masks, strict=False)]
    rows, hidden = x.t(), []
    for i, activation in enumerate(stack.activations):
        # The transpose of one shift for all rows is itself, that of (H, N) is (N, H).
        shift, bands = tensors[layers + i].t(), stack.bands[i]
        if bands is None or torch.is_grad_enabled():
            rows = shifted_product(shift, rows, weights[i].t())
        else:
            rows = banded_rows(shift, rows, weights[i], bands)
        hidden.append(activation.apply(rows))
    shift = tensors[-1].unsqueeze(1) if tensors[-1].ndim == 1 else tensors[-1]
    return shifted_product(shift, weights[-1], rows.t()), Values(hidden, weights)


def pull_back(
    stack: Stack, x: Tensor, shifts: Sequence[Tensor], values: Values, grad: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Differentiates :func:`run`.

    Args:
        stack: As there.
        x: As there.
        shifts: The last half of its tensors.
        values: What it computed.
        grad: Gradient of the output, ``(O, N)``.

    Returns:
        The gradient of the first layer's result ``(H, N)``, whose product with that layer's
        weight, transposed, is the gradient of x; and those of the tensors.
    """
    layers, sources = len(shifts), [x.t(), *values.hidden]
    grads = [grad] * (2 * layers)
    for i in reversed(range(layers)):
        grads[layers + i] = grad.sum(1) if shifts[i].ndim == 1 else grad
        mask, bands = stack.masks[i], stack.bands[i]
        if bands is None:
            weight_grad = product(grad, sources[i])
        else:
            weight_grad = banded_weight_grad(grad, sources[i], bands)
        grads[i] = weight_grad if mask is None else weight_grad.mul_(mask)
        if i > 0:
            weight = values.weights[i]
            if bands is None:
                rows = product(grad.t(), weight)
            else:
                rows = banded_input_grad(grad, weight, bands)
            grad = stack.activations[i - 1].multiply_by_slope(rows, sources[i]).t()
    return grad, grads


class DenseStack(torch.autograd.Function):
    """``W_n a(... a(W_1 x + b_1) ...) + b_n`` from ``(I, N)`` to ``(O, N)``.

    The hidden layers lie in rows, ``(N, H)``: the products that make the weights' gradients take
    two thirds of the time then, and a product may read and write either layout.
    """

    @staticmethod
    def forward(ctx: Any, stack: Stack, x: Tensor, *tensors: Tensor) -> Tensor:
        """Evaluates the layers, given each one's weight, then each one's shift."""
        output, values = run(stack, x, tensors)
        ctx.stack = stack
        # The masks too, for autograd then notices if one is written to.
        ctx.save_for_backward(x, *tensors, *values.hidden, *values.weights, *stack.masks)
        return output

    @staticmethod
    @without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of x, the weights and the shifts."""
        stack, layers = ctx.stack, len(ctx.stack.masks)
        x, *saved = ctx.saved_tensors
        tensors, made = saved[: 2 * layers], saved[2 * layers :]
        if must_record(grad):

            def record(x: Tensor, *tensors: Tensor) -> tuple[Tensor]:
                return run(stack, x, tensors)[:1]

            return (None, *recorded_gradient(record, (x, *tensors), (grad,)))
        values = Values(made[: layers - 1], made[layers - 1 : 2 * layers - 1])
        first, grads = pull_back(stack, x, tensors[layers:], values, grad)
        x_grad = product(values.weights[0].t(), first) if ctx.needs_input_grad[1] else None
        return None, x_grad, *grads
