"""Between the logical shape (*batch, D) of the contract and features first, (D, *batch)."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_nf.transforms._contract.boundary import (
    check_context,
    check_dtype,
    check_event,
    check_tensor,
)
from pyro_nf.transforms._contract.protocol import FlowTransform


def features_first(layer: FlowTransform, x: Tensor, context: Tensor | None, name: str) -> Tensor:
    """Checks a layer's input at its boundary and brings the features to the front.

    Args:
        layer: The layer, for its sizes and its name.
        x: Shape ``(*batch, D)``.
        context: Shape ``(*context_batch, context_dim)``, or None.
        name: What the layer calls the input, "x" or "y".

    Returns:
        Contiguous, shape ``(D, *batch)`` with the batch broadcast with the context's. No copy is
        made of a tensor that :func:`features_last` returned.
    """
    check_tensor(type(layer).__name__, name, x)
    check_event(layer, x.shape, name)
    check_context(layer, context)
    return to_front(layer, x, context, name)


def to_front(layer: FlowTransform, x: Tensor, context: Tensor | None, name: str) -> Tensor:
    """Brings the features of a checked input to the front; see :func:`features_first`.

    Checks the dtypes too: elementwise arithmetic would promote, and a network fail.
    """
    owner = type(layer).__name__
    check_dtype(owner, name, x, layer, "layer")
    if context is not None:
        check_dtype(owner, "context", context, layer, "layer")
    if context is not None and context.shape[:-1] != x.shape[:-1]:
        x = x.expand(*common_batch(layer, x, context, name, event_dim=1), x.shape[-1])
    return x.movedim(-1, 0).contiguous()


def features_last(x: Tensor) -> Tensor:
    """A view of ``(D, *batch)`` in the logical shape ``(*batch, D)``."""
    return x.movedim(0, -1)


def sum_rightmost(value: Tensor, count: int) -> Tensor:
    """Sums out the last ``count`` dimensions; unlike torch's own, of empty batches too."""
    return value.sum(tuple(range(-count, 0))) if count else value


def common_batch(
    layer: FlowTransform, x: Tensor, context: Tensor, name: str, *, event_dim: int
) -> torch.Size:
    """The batch of events of ``event_dim`` dimensions, broadcast with the context's, or raises."""
    batch, context_batch = x.shape[:-event_dim], context.shape[:-1]
    try:
        return torch.broadcast_shapes(batch, context_batch)
    except RuntimeError:
        raise ValueError(
            f"{type(layer).__name__} got {name} with batch shape {tuple(batch)} and a context "
            f"with batch shape {tuple(context_batch)}, which do not broadcast. Give one context "
            f"for each {'row' if event_dim == 1 else 'image'}, or one for all."
        ) from None
