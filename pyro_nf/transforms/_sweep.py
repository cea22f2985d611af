"""The slow direction of an autoregressive map, in about one pass of arithmetic.

The fast direction is one network pass, ``y = f(x, params(x))`` elementwise. The slow one finds x
from y one input after the other, because the parameters of an input depend on the inputs before
it. The hidden units of a masked network are sorted by degree, so step p evaluates the units of
degree p alone, from prefixes that are complete: all steps together cost one pass of arithmetic.

Names: everything here lies in the order of the chain, on flat matrices ``(features, N)``; D
inputs, P parameters for each. A layer's rows are cut into D *blocks*: block p of a hidden layer
holds the units of degree p, block p of the output layer the P parameters of input p.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import FunctionCtx, once_differentiable

from pyro_nf.bijections._base import ScalarBijection
from pyro_nf.nn._linear import spread
from pyro_nf.nn.masked import MaskedMLP


def sweep(
    network: MaskedMLP, bijection: ScalarBijection, y: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Solves :math:`y_d = f(x_d;\, p_d(x_{<d}))` for x, and differentiates the solution exactly.

    Cost: D sequential steps, about one network pass of arithmetic in all. The gradient is one
    dense pass and one sweep from the last input to the first, for the Jacobian is triangular. A
    second derivative, ``torch.func`` transforms, forward mode, ``torch.compile`` and activations
    with parameters of their own take the same steps under ordinary autograd: correct, slower.

    Args:
        network: makes the ``bijection.param_count`` parameters of each input.
        bijection: the elementwise map f.
        y: shape ``(input_dim, *batch)``, the batch already broadcast with the context's.
        context: shape ``(*context_batch, context_dim)``.

    Returns:
        x and the elementwise log|dx/dy|, both of the shape of y.

    References:
        - Masked autoregressive flow for density estimation (Papamakarios et al., 2017),
          arXiv:1705.07057.
    """
    batch = y.shape[1:]
    order, position = network.order, torch.argsort(network.order)
    weights, shifts = _chain_values(network, batch, context)
    rows = y.reshape(network.input_dim, math.prod(batch)).index_select(0, order)
    plan = _Plan(
        bijection,
        tuple(network.activations),
        network.skips,
        tuple(_Blocks(counts) for counts in network.counts)
        + (_Blocks.equal(network.input_dim, network.params_per_input),),
    )
    if _autograd_only(network):
        x, ladj = _solve(plan, rows, weights, shifts, _Growing)
    else:
        x, ladj = _Sweep.apply(plan, rows, *weights, *shifts)
    return (
        x.index_select(0, position).reshape(y.shape),
        ladj.index_select(0, position).reshape(y.shape),
    )


def _chain_values(
    network: MaskedMLP, batch: torch.Size, context: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Reads weights and shifts, inputs and outputs in the order of the chain, shifts spread."""
    weights, shifts = map(list, zip(*network.layer_values(context), strict=True))
    dim, params, order = network.input_dim, network.params_per_input, network.order
    weights[-1] = weights[-1].unflatten(0, (params, dim)).transpose(0, 1)
    weights[-1] = weights[-1].index_select(0, order).flatten(0, 1)  # (D * P, width)
    shifts[-1] = shifts[-1].unflatten(0, (params, dim)).transpose(0, 1)
    shifts[-1] = shifts[-1].index_select(0, order).flatten(0, 1)  # (D * P, *context_batch)
    weights[0] = weights[0].index_select(1, order)
    return weights, [spread(shift, batch) for shift in shifts]


def _autograd_only(network: MaskedMLP) -> bool:
    """Says whether ordinary operations must be recorded instead of the custom function."""
    return (
        torch.compiler.is_compiling()
        or _under_functorch()
        or forward_ad._current_level >= 0
        or any(True for _ in network.activations.parameters())
    )


def _under_functorch() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None


class _Blocks:
    """Where each of the D blocks of a layer's rows starts and stops."""

    def __init__(self, stops: Sequence[int]) -> None:
        self.stops = tuple(stops)
        self.starts = (0, *self.stops[:-1])
        self.sizes = [b - a for a, b in zip(self.starts, self.stops, strict=True)]

    @classmethod
    def equal(cls, count: int, size: int) -> _Blocks:
        """Cuts ``count * size`` rows into ``count`` blocks."""
        return cls([size * (p + 1) for p in range(count)])

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Cuts a tensor's rows into views; one node in the autograd graph."""
        return rows[: self.stops[-1]].split(self.sizes)


@dataclass(frozen=True)
class _Plan:
    """All of a sweep that is no tensor."""

    bijection: ScalarBijection
    activations: tuple[Callable[[Tensor], Tensor], ...]
    skips: tuple[bool, ...]
    blocks: tuple[_Blocks, ...]  # hidden layers, then the output layer


class _Growing:
    """Rows that grow out of place: what autograd and functorch can follow."""

    def __init__(self, like: Tensor, _: int) -> None:
        self.prefix = like[:0]

    def append(self, block: Tensor) -> None:
        """Adds the rows of a block."""
        self.prefix = torch.cat((self.prefix, block))


class _Buffer:
    """Rows that are written into memory allocated once."""

    def __init__(self, like: Tensor, rows: int) -> None:
        self._all = like.new_empty(rows, like.shape[1])
        self.prefix = self._all[:0]

    def append(self, block: Tensor) -> None:
        """Adds the rows of a block."""
        start = self.prefix.shape[0]
        stop = start + block.shape[0]
        self._all[start:stop] = block
        self.prefix = self._all[:stop]


def _solve(
    plan: _Plan,
    y: Tensor,
    weights: Sequence[Tensor],
    shifts: Sequence[Tensor],
    store: type[_Growing] | type[_Buffer],
) -> tuple[Tensor, Tensor]:
    """Walks the chain from its first input to its last; returns x and ladj, both (D, N)."""
    weight_blocks = [b.split(w) for b, w in zip(plan.blocks, weights, strict=True)]
    shift_blocks = [b.split(s) for b, s in zip(plan.blocks, shifts, strict=True)]
    x, ladj = store(y, y.shape[0]), []
    units = [store(y, blocks.stops[-1]) for blocks in plan.blocks[:-1]]
    for p, y_p in enumerate(y.unbind(0)):
        source = x.prefix
        for i, activation in enumerate(plan.activations):
            size = plan.blocks[i].sizes[p]
            if size:
                weight = weight_blocks[i][p][:, : source.shape[0]]
                change = activation(torch.addmm(shift_blocks[i][p], weight, source))
                units[i].append(source[-size:] + change if plan.skips[i] else change)
            source = units[i].prefix
        weight = weight_blocks[-1][p][:, : source.shape[0]]
        params = torch.addmm(shift_blocks[-1][p], weight, source)  # (P, N)
        x_p, ladj_p = plan.bijection.inverse(y_p, params)
        x.append(x_p.unsqueeze(0))
        ladj.append(ladj_p)
    return x.prefix, torch.stack(ladj)


class _Sweep(torch.autograd.Function):
    """The sweep without a graph, and its gradient by a sweep in reverse.

    It has no rule for vmap since :func:`sweep` never calls it inside a functorch transform; a
    mapped backward (``is_grads_batched``) goes through ordinary autograd.
    """

    @staticmethod
    def forward(plan: _Plan, y: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        layers = len(plan.blocks)
        return _solve(plan, y, tensors[:layers], tensors[layers:], _Buffer)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        ctx.plan, *tensors = inputs
        ctx.save_for_backward(output[0], *tensors)

    @staticmethod
    def backward(ctx: FunctionCtx, x_grad: Tensor, ladj_grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, *tensors = ctx.saved_tensors
        layers = len(ctx.plan.blocks)
        weights, shifts = tensors[:layers], tensors[layers:]
        if torch.is_grad_enabled() or _under_functorch():
            return (None, *_recorded_gradients(ctx.plan, y, weights, shifts, (x_grad, ladj_grad)))
        return (None, *_gradients(ctx.plan, x, y, weights, shifts, x_grad, ladj_grad))


def _recorded_gradients(
    plan: _Plan,
    y: Tensor,
    weights: Sequence[Tensor],
    shifts: Sequence[Tensor],
    output_grads: tuple[Tensor, Tensor],
) -> list[Tensor | None]:
    """Differentiates the plain path: may be differentiated again and mapped."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: the gradient for one input must not run on into another that it came from.
        aliases = [tensor.view_as(tensor) for tensor in (y, *weights, *shifts)]
        layers = len(weights)
        outputs = _solve(plan, aliases[0], aliases[1 : 1 + layers], aliases[1 + layers :], _Growing)
        needed = [alias for alias in aliases if alias.requires_grad]
        found = iter(
            torch.autograd.grad(
                outputs, needed, output_grads, create_graph=create_graph, allow_unused=True
            )
        )
        return [next(found) if alias.requires_grad else None for alias in aliases]


def _gradients(
    plan: _Plan,
    x: Tensor,
    y: Tensor,
    weights: Sequence[Tensor],
    shifts: Sequence[Tensor],
    x_grad: Tensor,
    ladj_grad: Tensor,
) -> list[Tensor]:
    """Differentiates the solution exactly, without a graph of the sweep.

    1. One dense pass at the solution gives every layer's input and the activations' slopes.
    2. One elementwise call gives the partial derivatives of x and ladj by y and the parameters.
    3. From the last input to the first: the total gradient of x_p is complete once all units of
       a degree above p are; it gives those of its parameters, these those of the units of
       degree p, last layer first.
    4. One matrix product gives the gradient of each layer's weight.
    """
    dim, params_per_input = y.shape[0], plan.blocks[-1].sizes[0]

    inputs, slopes = [x], []
    for weight, shift, activation, skip in zip(
        weights, shifts, plan.activations, plan.skips, strict=False
    ):
        change, slope = _value_and_slope(activation, torch.addmm(shift, weight, inputs[-1]))
        inputs.append(inputs[-1] + change if skip else change)
        slopes.append(slope)

    with torch.enable_grad():
        y = y.detach().requires_grad_()
        params = torch.addmm(shifts[-1], weights[-1], inputs[-1]).detach().requires_grad_()
        leading = params.view(dim, params_per_input, -1).transpose(0, 1)  # (P, D, N)
        x_again, ladj = plan.bijection.inverse(y, leading)
        x_by_y, x_by_params = _vjp(x_again, (y, params), torch.ones_like(x_grad))
        y_grad, params_grad = _vjp(ladj, (y, params), ladj_grad)

    x_grad = x_grad.clone()
    grads = [torch.zeros_like(slope) for slope in slopes] + [params_grad.clone()]
    unit_grads = [grad if not any(plan.skips) else torch.zeros_like(grad) for grad in grads[:-1]]
    for p in reversed(range(dim)):
        start = plan.blocks[0].stops[p]
        x_grad[p] += weights[0][start:, p] @ grads[0][start:]
        rows = slice(p * params_per_input, (p + 1) * params_per_input)
        grads[-1][rows] += x_grad[p] * x_by_params[rows]
        for i in reversed(range(len(slopes))):
            rows = slice(plan.blocks[i].starts[p], plan.blocks[i].stops[p])
            if rows.start == rows.stop:
                continue
            start = plan.blocks[i + 1].starts[p]
            unit_grad = weights[i + 1][start:, rows].t() @ grads[i + 1][start:]
            if i + 1 < len(slopes) and plan.skips[i + 1]:
                unit_grad += unit_grads[i + 1][rows]
            unit_grads[i][rows] = unit_grad
            grads[i][rows] = unit_grad * slopes[i][rows]

    weight_grads = [g @ h.t() for g, h in zip(grads, inputs, strict=True)]
    return [torch.addcmul(y_grad, x_grad, x_by_y), *weight_grads, *grads]


def _value_and_slope(
    activation: Callable[[Tensor], Tensor], pre: Tensor
) -> tuple[Tensor, Tensor]:
    """Evaluates an elementwise function and its derivative."""
    with torch.enable_grad():
        pre = pre.detach().requires_grad_()
        value = activation(pre)
        (slope,) = _vjp(value, (pre,), torch.ones_like(pre))
    return value.detach(), slope


def _vjp(output: Tensor, inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    """Pulls a gradient back; zeros where the output does not depend on an input."""
    if not output.requires_grad:
        return tuple(torch.zeros_like(tensor) for tensor in inputs)
    return torch.autograd.grad(
        output, inputs, grad, retain_graph=True, allow_unused=True, materialize_grads=True
    )
