"""Undirected and directed graphs over single latent dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import torch
from torch import Tensor

from pyro_nf.infer._structure_factors import Factor, Latent


class Block:
    """The nodes of one latent site: its place in a graph, and each node's row in each plate.

    Args:
        latent: The site.
        start: Number of its first node.
        numel: Number of its nodes, the batch's elements one after another.
    """

    def __init__(self, latent: Latent, start: int, numel: int) -> None:
        self.slice = slice(start, start + numel)
        shape = latent.batch_shape
        each = numel // max(1, shape.numel())
        self.rows: dict[str, Tensor] = {}  # plate -> (numel,)
        for dim, plate in latent.plates.items():
            rows = torch.arange(shape[dim]).reshape(-1, *(1,) * (-dim - 1)).expand(shape)
            self.rows[plate] = rows.reshape(-1).repeat_interleave(each)


def moral_graph(factors: Iterable[Factor], blocks: dict[str, Block], size: int) -> Tensor:
    """Joins any two nodes that stand in one factor: a symmetric matrix ``(size, size)``.

    Of a plate that lies around both nodes and around the factor, only equal rows are joined.
    """
    graph = torch.zeros(size, size, dtype=torch.bool, device="cpu")
    for factor in factors:
        for first, second in product(factor.latents, repeat=2):
            a, b = blocks[first], blocks[second]
            joined = torch.ones(len(graph[a.slice]), len(graph[b.slice]), dtype=torch.bool)
            for plate in a.rows.keys() & b.rows.keys() & factor.plates:
                joined &= a.rows[plate][:, None] == b.rows[plate]
            graph[a.slice, b.slice] |= joined
    return graph


def eliminate(graph: Tensor, order: Sequence[int]) -> Tensor:
    r"""Directs a graph: eliminates its nodes from the last of ``order``, with fill-in.

    The neighbours that a node has left when its turn comes are its parents, and are joined with
    each other. Of any density that is a product over the graph's cliques,

    .. math:: p(z) = \prod_i p(z_i | z_{\mathrm{parents}(i)}).

    Args:
        graph: Symmetric boolean matrix ``(n, n)``.
        order: All nodes.

    Returns:
        Boolean matrix ``(n, n)``: entry (i, j) says whether j is a parent of i.
    """
    left = graph.clone().fill_diagonal_(0)
    parents = torch.zeros_like(left)
    for node in reversed(order):
        neighbours = left[node].nonzero().squeeze(-1)
        parents[node, neighbours] = True
        left[neighbours[:, None], neighbours] = True
        left[node] = left[:, node] = False
        left.fill_diagonal_(0)
    return parents


def ancestors(parents: Tensor) -> Tensor:
    """Closes a directed acyclic graph: entry (i, j) says whether a path leads from j to i."""
    closed = parents.clone()
    while True:
        longer = closed | (closed.float() @ closed.float() > 0)
        if bool((longer == closed).all()):
            return closed
        closed = longer
