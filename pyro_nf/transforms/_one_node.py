"""A wiring as one node of the graph: partition, network, bijection and log-determinant.

Recorded operation by operation, a small layer's time goes to autograd's bookkeeping: forty nodes
where one does, each with its own gradient tensors, and copies to part features and join them.
Here the network and the bijection each differentiate themselves, and their gradients meet in
place. What cannot be done so (tracers, mixed dtypes, other bijections) takes the ordinary path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_nf._recorded import must_record, recorded_gradient, without_autocast
from pyro_nf.bijections import ScalarBijection
from pyro_nf.bijections._closed_form import ClosedForm, Direction, Saved, is_closed_form
from pyro_nf.nn import MLP, MaskedMLP
from pyro_nf.nn._dense import Stack, Values, in_place_forms, is_hooked, pull_back, run, stack_of
from pyro_nf.transforms._partition import Partition

Elementwise = Callable[[Tensor, Tensor, Direction], tuple[Any, ...]]


class Plan(NamedTuple):
    """All of a wiring that is no tensor that needs a gradient.

    Attributes:
        bijection: What moves the features.
        direction: Which way.
        stack: The network that makes its parameters.
        partition: Which features the network reads and which are moved; None where it reads all
            and all are moved.
    """

    bijection: ClosedForm
    direction: Direction
    stack: Stack
    partition: Partition | None


_PLAIN = (MLP.forward, MaskedMLP.forward)  # the networks whose layers may be read directly


def one_node(
    network: MLP | MaskedMLP,
    bijection: ScalarBijection,
    partition: Partition | None,
    x: Tensor,
    context: Tensor | None,
    direction: Direction,
) -> tuple[Tensor, Tensor] | None:
    """Maps x in one node.

    Args:
        network: Makes the parameters of the moved features from those that are read.
        bijection: Moves them.
        partition: As in :class:`Plan`.
        x: Shape ``(D, *batch)``, contiguous, checked.
        context: Shape ``(*context_batch, context_dim)``, or None.
        direction: Which way the bijection runs.

    Returns:
        The result ``(D, *batch)`` and the log-determinant ``batch``; None where the ordinary path
        has to be taken.
    """
    if not is_closed_form(bijection, x.dtype):
        return None
    if type(network).forward not in _PLAIN or network.features != "values" or any(network.skips):
        return None
    linears = (*network.hidden, network.output)
    activations = in_place_forms(linears, network.activations, x)
    if activations is None or is_hooked(network):
        return None
    batch = x.shape[1:]
    stack, tensors = stack_of(linears, activations, batch, context)
    plan = Plan(bijection, direction, stack, partition)
    rows = x if x.ndim == 2 else x.reshape(x.shape[0], math.prod(batch))
    if torch.is_grad_enabled():
        y, ladj = WiringNode.apply(plan, rows, *tensors)
    else:
        y, ladj, *_ = _map(plan, bijection.solve, rows, tensors)
    return (y, ladj) if x.ndim == 2 else (y.reshape(x.shape), ladj.reshape(batch))


def _map(
    plan: Plan, elementwise: Elementwise, x: Tensor, tensors: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Values, Saved]:
    """Maps ``(D, N)`` with the bijection's ``solve`` or ``evaluate``.

    Returns:
        The result, the log-determinant, and what the network and the bijection keep of it.
    """
    read, value = (x, x) if plan.partition is None else plan.partition.split(x)
    params, values = run(plan.stack, read, tensors)
    n = value.numel()
    raw = params.view(plan.bijection.param_count, n)
    result, ladj, *saved = elementwise(value.reshape(n), raw, plan.direction)
    result, ladj = result.view(value.shape), ladj.view(value.shape).sum(0)
    y = result if plan.partition is None else plan.partition.join(read, result)
    return y, ladj, values, saved[0] if saved else ()


class WiringNode(torch.autograd.Function):
    """The wiring in the graph."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, x: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        y, ladj, values, saved = _map(plan, plan.bijection.solve, x, tensors)
        ctx.plan = plan
        made = *values.hidden, *values.weights, *saved
        # The masks too, for autograd then notices if one is written to.
        ctx.save_for_backward(x, *tensors, *plan.stack.masks, *made)
        return y, ladj

    @staticmethod
    @without_autocast
    def backward(ctx: Any, grad: Tensor, ladj_grad: Tensor) -> tuple[Tensor | None, ...]:
        plan, layers = ctx.plan, len(ctx.plan.stack.masks)
        x, *rest = ctx.saved_tensors
        tensors, rest = rest[: 2 * layers], rest[3 * layers :]
        if must_record(grad, ladj_grad):

            def record(x: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
                return _map(plan, plan.bijection.evaluate, x, tensors)[:2]

            return None, *recorded_gradient(record, (x, *tensors), (grad, ladj_grad))
        values = Values(rest[: layers - 1], rest[layers - 1 : 2 * layers - 1])
        saved, partition = tuple(rest[2 * layers - 1 :]), plan.partition
        read = x if partition is None else partition.split(x)[0]
        moved_grad = grad if partition is None else partition.split(grad)[1]

        n, shape = moved_grad.numel(), moved_grad.shape
        value_grad, params_grad = plan.bijection.pull_back(
            saved, moved_grad.reshape(n), ladj_grad.expand(shape).reshape(n), plan.direction
        )
        params_grad = params_grad.view(plan.bijection.param_count * shape[0], shape[1])
        first, grads = pull_back(plan.stack, read, tensors[layers:], values, params_grad)
        if not ctx.needs_input_grad[1]:
            return None, None, *grads
        value_grad, first_weight = value_grad.view(shape), values.weights[0].t()
        if partition is None:
            return None, value_grad.addmm_(first_weight, first), *grads
        read_grad = torch.addmm(partition.split(grad)[0], first_weight, first)
        return None, partition.join(read_grad, value_grad), *grads
