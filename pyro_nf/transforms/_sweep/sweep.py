"""The slow direction of an autoregressive map, in about one pass of arithmetic."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_nf._tracing import is_traced
from pyro_nf.bijections._base import ScalarBijection
from pyro_nf.nn._linear import spread
from pyro_nf.nn.masked import MaskedMLP
from pyro_nf.transforms._sweep.gradient import Sweep
from pyro_nf.transforms._sweep.walk import Blocks, Buffer, Growing, Plan, walk


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
    order, position = network.order, torch.argsort(network.order)
    weights, shifts = _chain_values(network, batch, context)
    rows = y.reshape(network.input_dim, math.prod(batch)).index_select(0, order)
    blocks = [Blocks(counts) for counts in network.counts]
    blocks.append(Blocks.equal(network.input_dim, network.params_per_input))
    # Not the modules' calls: hooks would see fragments, and a call costs as much as a ReLU here.
    activations = tuple(module.forward for module in network.activations)
    plan = Plan(bijection, activations, network.skips, tuple(blocks), network.features)
    needs_graph = torch.is_grad_enabled()
    if is_traced() or (needs_graph and _has_parameters(network)):
        x, ladj = walk(plan, rows, weights, shifts, Growing)
    elif not needs_graph:
        x, ladj = walk(plan, rows, weights, shifts, Buffer)
    else:
        x, ladj = Sweep.apply(plan, rows, *weights, *shifts)
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
    # The columns of an input's features stay together.
    weights[0] = weights[0].unflatten(1, (dim, -1)).index_select(1, order).flatten(1, 2)
    return weights, [spread(shift, batch) for shift in shifts]


def _has_parameters(network: MaskedMLP) -> bool:
    """Says whether an activation learns: the custom function gives it no gradient."""
    return any(True for _ in network.activations.parameters())
