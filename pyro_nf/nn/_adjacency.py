"""Who may depend on whom: a directed acyclic graph, and masks that follow it exactly.

Every unit of a masked network has a set of inputs that it may read. A target sees a source if it
may read all that the source may: along any path the sets only grow, so that no path leads from an
input to an output that may not depend on it, whatever the depth. For inputs the set is the input
itself, for outputs the parents of their dimension, for hidden units the parents of some dimension.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Reads = Sequence[frozenset[int]]
"""For each unit of a layer, the inputs that it may read."""

Adjacency = Tensor | Sequence[Sequence[bool]]
"""Boolean matrix (D, D): entry (i, j) says whether dimension i may depend on dimension j."""


def parents_of(owner: str, adjacency: Any, input_dim: int) -> Reads:
    """Reads off the parents of each dimension; the diagonal is ignored.

    Raises:
        TypeError: If it is no matrix.
        ValueError: If the matrix is not square of size ``input_dim``, its entries are neither
            booleans nor 0 and 1, or its graph has a cycle, which the message prints.
    """
    try:
        matrix = torch.as_tensor(adjacency, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:  # a word, ragged rows, …
        raise TypeError(
            f"{owner} got an adjacency of type {type(adjacency).__name__} that is no matrix. Pass "
            f"a boolean matrix of shape ({input_dim}, {input_dim}): entry (i, j) says whether "
            "dimension i may depend on dimension j."
        ) from error
    if matrix.shape != (input_dim, input_dim):
        raise ValueError(
            f"{owner}(input_dim={input_dim}) got an adjacency of shape {tuple(matrix.shape)}. "
            f"Pass a boolean matrix of shape ({input_dim}, {input_dim}): entry (i, j) says "
            "whether dimension i may depend on dimension j."
        )
    if not bool(((matrix == 0) | (matrix == 1)).all()):
        raise ValueError(f"{owner} got an adjacency with other entries than 0 and 1. Pass bools.")
    parents = [
        frozenset(j for j, allowed in enumerate(row) if allowed and j != i)
        for i, row in enumerate(matrix.tolist())
    ]
    if len(topological_order(parents)) < input_dim:
        cycle = " -> ".join(map(str, _cycle(parents)))
        raise ValueError(
            f"{owner} got an adjacency with the cycle {cycle} (i -> j: dimension i may depend on "
            "j). Remove one of its entries: the graph must be acyclic."
        )
    return parents


def topological_order(parents: Reads) -> list[int]:
    """Lists every dimension after its parents, the smallest index first where there is a choice.

    Dimensions on a cycle, and those that depend on one, are missing.
    """
    waiting = {i: set(p) for i, p in enumerate(parents)}
    ready = [i for i, p in waiting.items() if not p]
    chain: list[int] = []
    while ready:
        chain.append(heapq.heappop(ready))
        del waiting[chain[-1]]
        for i, missing in waiting.items():
            if chain[-1] in missing:
                missing.remove(chain[-1])
                if not missing:
                    heapq.heappush(ready, i)
    return chain


def check_order(owner: str, parents: Reads, chain: Sequence[int]) -> None:
    """Raises ``ValueError`` unless ``chain`` lists every dimension after its parents."""
    position = {i: p for p, i in enumerate(chain)}
    for i in chain:
        late = [j for j in sorted(parents[i]) if position[j] > position[i]]
        if late:
            raise ValueError(
                f"{owner} got order={list(chain)}, which puts dimension {i} before {late[0]}, on "
                "which it may depend. Leave order away to have one derived: "
                f"{topological_order(parents)}."
            )


def hidden_reads(
    owner: str, parents: Reads, position: Sequence[int], width: int, lowest: int
) -> Reads:
    """Spreads the distinct sets of parents evenly over the units of a hidden layer.

    The sets ascend in degree, as the sweep of the slow direction needs it. Each has a unit, so
    that every dependence allowed is there.

    Args:
        owner: Who asks, for the message.
        parents: The parents of each dimension.
        position: The place of each dimension in an order that follows the graph.
        width: Number of units.
        lowest: Least number of inputs that a unit reads: 0 with a context, else 1.

    Raises:
        ValueError: If there are fewer units than sets.
    """
    kinds = {reads for reads in parents if len(reads) >= lowest}
    ascending = sorted(kinds, key=lambda reads: (degree(reads, position), sorted(reads)))
    if width < len(ascending):
        raise ValueError(
            f"{owner} got a hidden layer of {width} units for an adjacency with {len(ascending)} "
            f"distinct sets of parents. Pass hidden_dims of at least {len(ascending)}, so that "
            "each set has a unit, or () for a linear network."
        )
    return [ascending[unit * len(ascending) // width] for unit in range(width)]


def degree(reads: frozenset[int], position: Sequence[int]) -> int:
    """Counts the dimensions of the chain up to the last one that is read."""
    return 1 + max((position[i] for i in reads), default=-1)


def mask_between(sources: Reads, targets: Reads, input_dim: int) -> Tensor:
    """Lets each target see the sources that read no more than it: ``(targets, sources)``."""
    read, barred = _as_rows(sources, input_dim), 1 - _as_rows(targets, input_dim)
    mask = (barred @ read.t() == 0).to(torch.get_default_dtype())
    return mask.to(torch.get_default_device())


def _as_rows(sets: Reads, input_dim: int) -> Tensor:
    rows = torch.zeros(len(sets), input_dim, device="cpu")
    for row, members in zip(rows, sets, strict=True):
        row[sorted(members)] = 1
    return rows


def _cycle(parents: Reads) -> list[int]:
    """Finds a cycle of a graph that has one; it starts and ends at its smallest member."""
    left = set(range(len(parents))) - set(topological_order(parents))
    path = [min(left)]
    while path[-1] not in path[:-1]:
        path.append(min(parents[path[-1]] & left))  # what is left has a parent that is left
    cycle = path[path.index(path[-1]) : -1]
    start = cycle.index(min(cycle))
    return [*cycle[start:], *cycle[:start], cycle[start]]
