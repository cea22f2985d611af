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
    network: Network, x: Tensor, context: Tensor | None, *, size: int, count: int, owner: str
) -> Tensor:
    """Evaluates a network that makes the parameters of each of several elements.

    Args:
        network: One of this package, features first, or one after the manner of Pyro's.
        x: What it reads, shape ``(features, *batch)``.
        context: Shape ``(*context_batch, context_dim)``, or None.
        size: Number of elements.
        count: Number of parameters for each.
        owner: Who asks, for the messages.

    Returns:
        Shape ``(count, size, *batch)``.

    Raises:
        TypeError, ValueError: If the network reads or makes something else.
    """
    known = getattr(network, "input_dim", None)
    if isinstance(known, int) and known != len(x):
        raise ValueError(
            f"{owner} got a network of input_dim={known} and has {len(x)} elements for it to "
            f"read. Build it with input_dim={len(x)}."
        )
    if isinstance(network, (MLP, MaskedMLP)):
        made = network(x, context)
        if len(made) != count * size:
            raise ValueError(
                f"{owner} got a network of {len(made)} outputs, where {count} numbers for each "
                f"of {size} elements are needed. Build it with {count * size}."
            )
        return made.view(count, size, *x.shape[1:])
    last = x.movedim(0, -1)
    made = network(last) if context is None else network(last, context=context)
    return stack_elements(made, size, x.ndim - 1, count, owner)


def stack_elements(
    made: Tensor | Sequence[Tensor], size: int, batch_ndim: int, count: int, owner: str
) -> Tensor:
    """Stacks the parameters of ``size`` elements, shape ``(count, size, *batch)``, or raises.

    Pyro's autoregressive networks return ``(*batch, p, size)``, or ``(*batch, size)`` for p = 1;
    its dense ones ``(*batch, size · p)`` with p the faster index.
    """
    given = tensors_of(made, owner)
    parts = [
        part.unflatten(-1, (size, part.shape[-1] // size)).transpose(-1, -2)
        if part.ndim == batch_ndim + 1 and part.shape[-1] % size == 0
        else part
        for part in given
    ]  # (*batch, p, size) each
    fits = all(part.ndim == batch_ndim + 2 and part.shape[-1] == size for part in parts)
    if not fits or sum(part.shape[-2] for part in parts) != count:
        raise ValueError(
            f"{owner} got from its network {shapes_of(given)}, where {count} numbers for each of "
            f"{size} elements are needed. Let it return tensors (*batch, {size} p), as "
            f"pyro.nn.DenseNN does with param_dims that sum to {size * count}, or "
            f"(*batch, p, {size}), whose p sum to {count}."
        )
    return torch.cat(parts, -2).movedim((-2, -1), (0, 1))


def tensors_of(made: Any, owner: str) -> tuple[Tensor, ...]:
    """Returns what a network made as a tuple of tensors, or raises."""
    parts = tuple(made) if isinstance(made, (tuple, list)) else (made,)
    for part in parts:
        if not isinstance(part, Tensor):
            raise TypeError(
                f"{owner} got from its network a value of type {type(part).__name__}. Let it "
                "return a tensor or a tuple of tensors."
            )
    return parts


def shapes_of(parts: Sequence[Tensor]) -> str:
    """Names the shapes of some tensors, for messages."""
    return "tensors of shapes " + ", ".join(str(tuple(part.shape)) for part in parts)


class ContextNetwork(nn.Module):
    """A user's network of the context, called as this package's own are.

    Args:
        network: Maps a context ``(*batch, context_dim)`` to the parameters.
        size: Number of elements that the parameters belong to.
        count: Number of parameters for each.
        owner: Who asks, for the messages.
    """

    def __init__(self, network: Network, size: int, count: int, owner: str) -> None:
        super().__init__()
        self.nn = network
        self.size, self.count, self.owner = size, count, owner

    def forward(self, context: Tensor) -> Tensor:
        """Maps a context ``(context_dim, *batch)`` to parameters ``(count · size, *batch)``."""
        made = self.nn(context.movedim(0, -1))
        stacked = stack_elements(made, self.size, context.ndim - 1, self.count, self.owner)
        return stacked.flatten(0, 1)


def check_network(owner: str, network: Any) -> None:
    """Raises ``TypeError`` unless a network can be called."""
    if not callable(network):
        raise TypeError(
            f"{owner} got {network!r} for a network. Pass a module or a function, such as "
            "pyro.nn.DenseNN."
        )


def check_reads_context(owner: str, context_dim: int) -> None:
    """Raises ``ValueError`` if the network of a conditional class reads no context."""
    if not context_dim:
        raise ValueError(
            f"{owner} got a network that reads no context. Pass one with an attribute "
            "context_dim, such as pyro.nn.ConditionalAutoRegressiveNN or ConditionalDenseNN; or "
            "say the size of the context: context_dim=3. Without context use "
            f"{owner.removeprefix('Conditional')}."
        )


def size_of_context(owner: str, network: Network, given: int | None) -> int:
    """Returns the size of the context that a network of the context alone reads, or raises."""
    check_network(owner, network)
    known = getattr(network, "input_dim", None)
    if given is not None and isinstance(known, int) and known != given:
        raise ValueError(
            f"{owner} got context_dim={given} and a network of input_dim={known}. Build the "
            "network for the context alone, or leave context_dim out."
        )
    size = known if given is None else given
    if size is None:
        raise ValueError(
            f"{owner} got a network of type {type(network).__name__}, which has no attribute "
            "input_dim. Pass the size of its context: context_dim=3, say."
        )
    return int(size)
