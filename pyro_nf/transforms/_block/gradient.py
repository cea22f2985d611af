"""The gradient of a walk: one dense pass, and one walk from the last dimension to the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_nf._recorded import must_record, recorded_gradient
from pyro_nf.nn._block_values import BlockValues, evaluate
from pyro_nf.transforms._block.walk import Search, walk
from pyro_nf.transforms._sweep.walk import Blocks, Buffer, Growing


class BlockSweep(torch.autograd.Function):
    """The walk without a graph, differentiated by the implicit function theorem.

    It has no rule for ``torch.func.vmap``: under functorch the caller takes the recorded path. A
    mapped backward (``is_grads_batched``) and a second derivative take it here.
    """

    @staticmethod
    def forward(
        values: BlockValues, search: Search, v: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Solves for u and returns it with log ∂v_d/∂u_d, both (D, N)."""
        values = values.with_tensors(tensors)
        u = walk(values, v, search, Buffer)
        return u, evaluate(values, u)[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        """Keeps the solution and the inputs: the backward evaluates the units anew."""
        values, ctx.search, *tensors = inputs
        ctx.values = values.with_tensors([tensor.new_empty(0) for tensor in tensors[1:]])
        ctx.save_for_backward(output[0], *tensors)

    @staticmethod
    def backward(ctx: Any, u_grad: Tensor, slope_grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of v and of the network's numbers."""
        u, v, *tensors = ctx.saved_tensors
        grads: Sequence[Tensor | None]
        if must_record(u_grad, slope_grad):

            def recorded(v: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
                return recorded_walk(ctx.values.with_tensors(tensors), v, ctx.search)

            grads = recorded_gradient(recorded, (v, *tensors), (u_grad, slope_grad))
        else:
            grads = _implicit(ctx.values, u, tensors, u_grad, slope_grad)
        return (None, None, *grads)


def recorded_walk(values: BlockValues, v: Tensor, search: Search) -> tuple[Tensor, Tensor]:
    """Solves for u and log ∂v_d/∂u_d in operations that any tracer follows."""
    u = walk(values, v, search, Growing)
    return u, evaluate(values, u)[1]


def _implicit(
    values: BlockValues,
    u: Tensor,
    tensors: list[Tensor],
    u_grad: Tensor,
    slope_grad: Tensor,
) -> list[Tensor]:
    r"""Differentiates the solution exactly, without a graph of the walk.

    With J the network's Jacobian, l(u, θ) its log-slopes and g the total gradient of u,

    1. the log-slopes hand on :math:`g = \bar u + (\partial l / \partial u)^\top \bar l`;
    2. :math:`\lambda = J^{-\top} g` is the gradient of v;
    3. that of θ is
       :math:`-(\partial v / \partial θ)^\top \lambda + (\partial l / \partial θ)^\top \bar l`.
    """
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        inputs = [tensor.detach().requires_grad_() for tensor in tensors]
        v, log_slope = evaluate(values.with_tensors(inputs), u)
        (through_slope,) = torch.autograd.grad(
            log_slope, u, slope_grad, retain_graph=True, materialize_grads=True
        )
    constant = values.with_tensors(tensors)
    diagonal = log_slope.detach().exp()
    v_grad = _solve_transposed(constant, u.detach(), diagonal, u_grad + through_slope)
    grads = torch.autograd.grad(
        (v, log_slope), inputs, (-v_grad, slope_grad), allow_unused=True, materialize_grads=True
    )
    return [v_grad, *grads]


def _solve_transposed(values: BlockValues, u: Tensor, diagonal: Tensor, g: Tensor) -> Tensor:
    r"""Solves :math:`J^\top λ = g`, J the network's lower triangular Jacobian at u.

    From the last dimension to the first: once λ is known for the dimensions after d, so are the
    gradients of all units of later blocks; pulled back to u_d they give
    :math:`q_d = \sum_{e > d} J_{ed} λ_e`, and :math:`λ_d = (g_d - q_d) / J_{dd}`.
    All steps together cost one pass of arithmetic.

    Args:
        values: The network's numbers.
        u: Shape ``(D, N)``.
        diagonal: The diagonal of J, ``(D, N)``.
        g: Shape ``(D, N)``.
    """
    dim, activation = u.shape[0], values.activation
    slopes, h = [], u
    for layer in values.layers[:-1]:
        pre = torch.addmm(layer.shift, layer.weight, h)
        h = activation.value(pre)
        slopes.append(activation.slope(pre, h))

    # own[i]: how each output depends on the units of its own block in layer i, (D * b, N).
    own, path = [], torch.ones_like(u).unsqueeze(1)
    for slope, layer in zip(reversed(slopes), reversed(values.layers[1:]), strict=True):
        path = torch.bmm(layer.blocks.mT, path) * slope.unflatten(0, (dim, -1))
        own.append(path.flatten(0, 1))
    own.reverse()

    hidden = [Blocks.equal(dim, layer.blocks.shape[1]) for layer in values.layers[:-1]]
    sizes = [*hidden, Blocks.equal(dim, 1)]
    columns = [
        b.split(layer.weight.t().contiguous())
        for b, layer in zip((Blocks.equal(dim, 1), *hidden), values.layers, strict=True)
    ]
    grads = [*map(torch.empty_like, slopes), torch.empty_like(u)]  # by each layer's output
    grad_blocks, slope_blocks, own_blocks = (
        [b.split(rows) for b, rows in zip(sizes, layers, strict=False)]
        for layers in (grads, slopes, own)
    )
    v_grad = torch.empty_like(u)
    # The share of f in the output, (D, 1).
    share = u.new_ones(dim, 1) if values.gate is None else torch.sigmoid(-values.gate)

    for d in reversed(range(dim)):
        start = d + 1  # the output of d itself is not yet known
        for i in reversed(range(len(slopes))):
            pulled = columns[i + 1][d][:, start:] @ grads[i + 1][start:]
            grad_blocks[i][d].copy_(pulled * slope_blocks[i][d])
            start = sizes[i].starts[d]
        pulled = columns[0][d][:, start:] @ grads[0][start:]
        v_grad[d] = (g[d] - pulled[0]) / diagonal[d]
        grads[-1][d] = v_grad[d] * share[d]
        for i in range(len(slopes)):
            grad_blocks[i][d].addcmul_(own_blocks[i][d], grads[-1][d])
    return v_grad
