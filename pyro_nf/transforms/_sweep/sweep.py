"""The slow direction of an autoregressive map, in about one pass of arithmetic."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_nf._tracing import is_traced
from pyro_nf.bijections._base import ScalarBijection
from pyro_nf.nn._dense import in_place_forms
from pyro_nf.nn._linear import spread
from pyro_nf.nn.masked import MaskedMLP
from pyro_nf.transforms._sweep.gradient import Sweep
from pyro_nf.transforms._sweep.solution import solve
from pyro_nf.transforms._sweep.walk import Blocks, Plan, walk


def sweep(
    network: MaskedMLP, bijection: ScalarBijection, y: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Solves :math:`y_d = f(x_d;\, p_d(x_{<d}))` for x, and differentiates the solution exactly.

    Cost: D sequential steps, about one network pass of arithmetic in all. The gradient is one
    dense pass and one walk from the last input to the first, for the Jacobian is triangular. A
    second derivative, ``torch.func`` transforms, forward mode, ``torch.compile``,
    ``torch.jit.trace`` and activations with parameters of their own take the same steps under
    ordinary autograd: correct, slower.

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

    Examples:
        >>> from pyro_nf.bijections import Affine
        >>> x, ladj = sweep(MaskedMLP(3, 2, order=[2, 0, 1]), Affine(), torch.randn(3, 5))
        >>> x.shape, ladj.shape
        (torch.Size([3, 5]), torch.Size([3, 5]))
    """
    batch = y.shape[1:]
    order = None if _natural(network.order) else network.order
    weights, shifts = _chain_values(network, batch, context, order)
    rows = y.reshape(network.input_dim, math.prod(batch))
    rows = rows if order is None else rows.index_select(0, order)
    plan = _plan(network, bijection, rows)
    if _must_record(network, rows):
        x, ladj = walk(plan, rows, weights, shifts)
    elif torch.is_grad_enabled():
        x, ladj = Sweep.apply(plan, rows, *weights, *shifts)
    else:
        x, ladj, *_ = solve(plan, rows, weights, shifts)
    if order is not None:
        position = torch.argsort(order)
        x, ladj = x.index_select(0, position), ladj.index_select(0, position)
    return x.reshape(y.shape), ladj.reshape(y.shape)


def _natural(order: Tensor) -> bool:
    """Whether an order that the host can read at no cost is 0, ..., D - 1."""
    if order.device.type != "cpu" or is_traced():
        return False
    return order.tolist() == list(range(order.numel()))


def _plan(network: MaskedMLP, bijection: ScalarBijection, rows: Tensor) -> Plan:
    blocks = [Blocks(counts) for counts in network.counts]
    blocks.append(Blocks.equal(network.input_dim, network.params_per_input))
    # Not the modules' calls: hooks would see fragments, and a call costs as much as a ReLU here.
    activations = tuple(module.forward for module in network.activations)
    in_place = None if any(network.skips) else in_place_forms((), network.activations, rows)
    return Plan(bijection, activations, network.skips, tuple(blocks), network.features, in_place)


def _must_record(network: MaskedMLP, rows: Tensor) -> bool:
    """Whether each operation has to be followed: by a tracer, autocast or autograd.

    The custom function gives an activation's own parameters no gradient.
    """
    if is_traced() or (
        torch.is_grad_enabled() and any(True for _ in network.activations.parameters())
    ):
        return True
    return rows.device.type != "meta" and torch.is_autocast_enabled(rows.device.type)


def _chain_values(
    network: MaskedMLP, batch: torch.Size, context: Tensor | None, order: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Reads weights and shifts, inputs and outputs in the order of the chain, shifts spread."""
    weights, shifts = map(list, zip(*network.layer_values(context), strict=True))
    dim, params = network.input_dim, network.params_per_input
    if order is not None:
        # The columns of an input's features stay together.
        weights[0] = weights[0].unflatten(1, (dim, -1)).index_select(1, order).flatten(1, 2)
    for values in (weights, shifts):
        rest = values[-1].shape[1:]  # (width,), (*context_batch,)
        last = values[-1].view(params, dim, *rest).transpose(0, 1)
        last = last if order is None else last.index_select(0, order)
        values[-1] = last.reshape(dim * params, *rest)
    return weights, [_spread(shift, batch) for shift in shifts]


def _spread(shift: Tensor, batch: torch.Size) -> Tensor:
    """Broadcasts ``(rows, *context_batch)`` to ``(rows, N)``."""
    if shift.ndim == 1:
        return shift.unsqueeze(1).expand(shift.shape[0], math.prod(batch))
    return spread(shift, batch)
