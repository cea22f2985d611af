"""The walk along the chain of a block network: one scalar root after the other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_nf.bijections._root import Root, solve
from pyro_nf.nn._block_values import BlockValues, LayerValues, evaluate
from pyro_nf.transforms._sweep.walk import Blocks, Buffer, Growing


class Search(NamedTuple):
    """How roots are searched for, and for whom."""

    root: Root
    owner: str


def walk(
    values: BlockValues, v: Tensor, search: Search, store: type[Growing] | type[Buffer]
) -> Tensor:
    """Solves for the network's input, dimension by dimension.

    At step d all units of the blocks before are known and enter as shifts; what is left is the
    network of block d alone, an increasing function of one variable. All steps together cost one
    pass of arithmetic for the shifts; the searches evaluate the diagonal blocks alone.

    Args:
        values: The network's numbers.
        v: What the network shall return, shape ``(D, N)``.
        search: How the roots are searched for.
        store: How units are collected: ``Growing`` where anything differentiates the walk.

    Returns:
        The input u, ``(D, N)``.
    """
    dim = v.shape[0]
    sizes = [Blocks.equal(dim, layer.blocks.shape[1]) for layer in values.layers]
    weights = [b.split(layer.weight) for b, layer in zip(sizes, values.layers, strict=True)]
    shifts = [b.split(layer.shift) for b, layer in zip(sizes, values.layers, strict=True)]
    # What each layer reads: the inputs found so far, then each hidden layer's units.
    known = [store(v, blocks) for blocks in (Blocks.equal(dim, 1), *sizes[:-1])]
    for d in range(dim):
        given = [
            torch.addmm(shift[d], weight[d][:, : source.prefix.shape[0]], source.prefix)
            for weight, shift, source in zip(weights, shifts, known, strict=True)
        ]
        own = _block(values, d, given)
        h = _solved(own, v[d], search, differentiable=store is Growing)
        for layer, source in zip(own.layers, known, strict=True):
            source.append(d, h)
            h = own.activation.value(torch.addmm(layer.shift, layer.weight, h))
    return known[0].prefix


def _block(values: BlockValues, d: int, shifts: list[Tensor]) -> BlockValues:
    """The one-dimensional network of block d."""
    layers = [
        LayerValues(layer.blocks[d], shift, layer.blocks[d : d + 1])
        for layer, shift in zip(values.layers, shifts, strict=True)
    ]
    gate = None if values.gate is None else values.gate[d : d + 1]
    return values._replace(layers=layers, gate=gate)


def _solved(own: BlockValues, v: Tensor, search: Search, *, differentiable: bool) -> Tensor:
    """Solves a one-dimensional network for its input, ``(1, N)``.

    The search has no graph. Two of Newton's steps at the root, in plain arithmetic, have the first
    and second derivatives of the implicit function.
    """
    constant = own.with_tensors([tensor.detach() for tensor in own.tensors])
    sizes = [layer.shift.shape[0] for layer in own.layers]

    def function(u: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
        return _value_and_log_slope(constant, u.unsqueeze(0), shifts.split(sizes))

    shifts = torch.cat([layer.shift for layer in constant.layers])
    u = solve(function, v.detach(), shifts, search.root, search.owner).unsqueeze(0)
    for _ in range(2 if differentiable else 0):
        value, log_slope = evaluate(own, u)
        residual = (value - value.detach()) - (v - v.detach())  # rounding does not move u
        u = u - residual * torch.exp(-log_slope)
    return u


def _value_and_log_slope(
    own: BlockValues, u: Tensor, shifts: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """A one-dimensional network, its slope in plain arithmetic: good enough to search with."""
    activation, (*hidden, last) = own.activation, own.layers
    h, slope = u, torch.ones_like(u)
    for layer, shift in zip(hidden, shifts, strict=False):
        pre = torch.addmm(shift, layer.weight, h)
        h = activation.value(pre)
        slope = (layer.weight @ slope) * activation.slope(pre, h)
    value = torch.addmm(shifts[-1], last.weight, h)
    slope = last.weight @ slope
    if own.residual == "normal":
        value, slope = value + u, slope + 1
    elif own.gate is not None:
        share = torch.sigmoid(own.gate)
        value, slope = torch.lerp(value, u, share), torch.addcmul(share, slope, 1 - share)
    return value.squeeze(0), slope.log().squeeze(0)
