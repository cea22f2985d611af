"""Networks written for Pyro, features last, read as the parameters of a bijection.

A user's network returns one tensor or a tuple of them, after the manner of ``pyro.nn``. Here they
become one tensor whose parameters lead, as every bijection takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_nf.nn import MLP, MaskedMLP

Network = Callable[..., Any]


def elementwise_params(
    network: Network, x: Tensor, context: Tensor | None, *, size: int, count: int
) -> Tensor:
    """Evaluates a network that makes the parameters of each of several elements.

    Args:
        network: One of this package, features first, or one after the manner of Pyro's.
        x: What it reads, shape ``(features, *batch)``.
        context: Shape ``(*context_batch, context_dim)``, or None.
        size: Number of elements.
        count: Number of parameters for each; what a user's network returns decides.

    Returns:
        Shape ``(count, size, *batch)``.
    """
    if isinstance(network, (MLP, MaskedMLP)):
        return network(x, context).view(count, size, *x.shape[1:])
    last = x.movedim(0, -1)
    made = network(last) if context is None else network(last, context=context)
    return stack_elements(made, size, x.ndim - 1)


def stack_elements(made: Tensor | Sequence[Tensor], size: int, batch_ndim: int) -> Tensor:
    """Stacks the parameters of ``size`` elements, shape ``(count, size, *batch)``.

    Pyro's autoregressive networks return ``(*batch, p, size)``, or ``(*batch, size)`` for p = 1;
    its dense ones ``(*batch, size · p)`` with p the faster index.
    """
    parts = []
    for part in (made,) if isinstance(made, Tensor) else made:
        if part.ndim == batch_ndim + 1:
            part = part.unflatten(-1, (size, part.shape[-1] // size)).transpose(-1, -2)
        parts.append(part)  # (*batch, p, size)
    return torch.cat(parts, -2).movedim((-2, -1), (0, 1))


class ContextNetwork(nn.Module):
    """A user's network of the context, called as this package's own are.

    Args:
        network: Maps a context ``(*batch, context_dim)`` to the parameters.
        size: Number of elements that the parameters belong to; None if they belong to none.
    """

    def __init__(self, network: Network, size: int | None = None) -> None:
        super().__init__()
        self.nn = network
        self.size = size

    def forward(self, context: Tensor) -> Tensor:
        """Maps a context ``(context_dim, *batch)`` to parameters ``(count, *batch)``."""
        made = self.nn(context.movedim(0, -1))
        if self.size is None:
            return stack_rows(made)
        return stack_elements(made, self.size, context.ndim - 1).flatten(0, 1)


def stack_rows(made: Tensor | Sequence[Tensor]) -> Tensor:
    """Stacks parameters that belong to no element, shape ``(count, *batch)``."""
    parts = (made,) if isinstance(made, Tensor) else tuple(made)
    return torch.cat(parts, -1).movedim(-1, 0)


def size_of_context(owner: str, network: Network, given: int | None) -> int:
    """Returns the size of the context that a network of the context alone reads, or raises."""
    size = getattr(network, "input_dim", None) if given is None else given
    if size is None:
        raise ValueError(
            f"{owner} got a network of type {type(network).__name__}, which has no attribute "
            "input_dim. Pass the size of its context: context_dim=3, say."
        )
    return int(size)
