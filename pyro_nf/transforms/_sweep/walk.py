"""The walk along the chain of an autoregressive map, from its first input to its last.

The hidden units of a masked network are sorted by degree, so step p evaluates the units of degree
p alone, from prefixes that are complete: all steps together cost one pass of arithmetic.

Everything here lies in the order of the chain, on flat matrices ``(features, N)``; D inputs, P
parameters for each. A layer's rows are cut into D *blocks*: block p of a hidden layer holds the
units of degree p, block p of the output layer the P parameters of input p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_nf.bijections._base import ScalarBijection
from pyro_nf.nn._dense import InPlace
from pyro_nf.nn._features import Features, encode


class Blocks:
    """Where each of the D blocks of a layer's rows starts and stops."""

    def __init__(self, stops: Sequence[int]) -> None:
        self.stops = tuple(stops)
        self.starts = (0, *self.stops[:-1])
        self.sizes = [b - a for a, b in zip(self.starts, self.stops, strict=True)]

    @classmethod
    def equal(cls, count: int, size: int) -> Blocks:
        """Cuts ``count * size`` rows into ``count`` blocks."""
        return cls([size * (p + 1) for p in range(count)])

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Cuts a tensor's rows into views; one node in the autograd graph."""
        return rows[: self.stops[-1]].split(self.sizes)


@dataclass(frozen=True)
class Plan:
    """All of a sweep that is no tensor."""

    bijection: ScalarBijection
    activations: tuple[Callable[[Tensor], Tensor], ...]
    skips: tuple[bool, ...]
    blocks: tuple[Blocks, ...]  # of the hidden layers, then of the output layer
    features: Features = "values"  # what the first layer reads of each input
    in_place: tuple[InPlace, ...] | None = None  # the activations' forms that need no new memory


class Growing:
    """Rows that grow out of place: what autograd and functorch can follow."""

    def __init__(self, like: Tensor, blocks: Blocks) -> None:
        del blocks  # each block brings its own size
        self.prefix = like[:0]

    def append(self, p: int, block: Tensor) -> None:
        """Adds block p."""
        del p  # the blocks come in turn
        self.prefix = torch.cat((self.prefix, block))


class Buffer:
    """Rows that are written into memory allocated once."""

    def __init__(self, like: Tensor, blocks: Blocks) -> None:
        self.prefix = like[:0]
        self._all = like.new_empty(blocks.stops[-1], like.shape[1])
        self._blocks = blocks.split(self._all)
        self._stops = blocks.stops

    def append(self, p: int, block: Tensor) -> None:
        """Adds block p."""
        self._blocks[p].copy_(block)
        self.prefix = self._all[: self._stops[p]]


def walk(
    plan: Plan, y: Tensor, weights: Sequence[Tensor], shifts: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Solves for x, input by input, in operations that autograd and functorch can follow.

    Args:
        plan: all that is no tensor.
        y: shape (D, N).
        weights: for each layer (rows, rows before), hidden layers first.
        shifts: for each layer (rows, N).

    Returns:
        x and log|dx/dy|, both (D, N).
    """
    weight_blocks = [b.split(w) for b, w in zip(plan.blocks, weights, strict=True)]
    shift_blocks = [b.split(s) for b, s in zip(plan.blocks, shifts, strict=True)]
    x, ladj = Growing(y, Blocks.equal(y.shape[0], 1)), []
    periodic = plan.features == "periodic"
    read = Growing(y, Blocks.equal(y.shape[0], 2)) if periodic else x
    units = [Growing(y, blocks) for blocks in plan.blocks[:-1]]
    for p, y_p in enumerate(y.unbind(0)):
        source = read.prefix
        for i, activation in enumerate(plan.activations):
            size = plan.blocks[i].sizes[p]
            if size:
                weight = weight_blocks[i][p][:, : source.shape[0]]
                change = activation(torch.addmm(shift_blocks[i][p], weight, source))
                units[i].append(p, source[-size:] + change if plan.skips[i] else change)
            source = units[i].prefix
        weight = weight_blocks[-1][p][:, : source.shape[0]]
        params = torch.addmm(shift_blocks[-1][p], weight, source)  # (P, N)
        x_p, ladj_p = plan.bijection.inverse(y_p, params)
        x.append(p, x_p.unsqueeze(0))
        if periodic:
            read.append(p, encode(plan.features, x_p.unsqueeze(0)))
        ladj.append(ladj_p)
    return x.prefix, torch.stack(ladj)
