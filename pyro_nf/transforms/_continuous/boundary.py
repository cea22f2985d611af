"""What may enter a continuous layer: its field, its values, and who calls."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from pyro_nf._checks import non_negative_int, positive_int
from pyro_nf._tracing import under_functorch
from pyro_nf.nn.field import Field
from pyro_nf.transforms._contract.boundary import check_context, check_dtype, check_tensor
from pyro_nf.transforms._contract.protocol import FlowTransform
from pyro_nf.transforms._contract.reuse import UNSTEADY_IN_TRAINING

OWNER = "Continuous"


def event_shape(field: nn.Module, input_dim: int | Sequence[int] | None) -> torch.Size:
    """The shape of an event, if the field can be integrated at all."""
    owner = OWNER
    if not isinstance(field, nn.Module):
        raise TypeError(
            f"{owner} got field={field!r}. Pass an nn.Module: pyro_nf.nn.FieldMLP(2), or one of "
            "your own whose forward(t, z) returns the velocity."
        )
    unsteady = [type(m).__name__ for m in field.modules() if isinstance(m, UNSTEADY_IN_TRAINING)]
    if unsteady:
        raise ValueError(
            f"{owner} got a field with {unsteady[0]}, which gives another velocity at every "
            "evaluation. Leave dropout and batch normalisation out of the field."
        )
    if isinstance(field, Field):
        if input_dim is not None and input_dim != field.input_dim:
            raise ValueError(
                f"{owner} got input_dim={input_dim} for a {type(field).__name__} with "
                f"input_dim={field.input_dim}. Leave input_dim away."
            )
        return torch.Size([field.input_dim])
    if input_dim is None:
        raise ValueError(
            f"{owner} got a {type(field).__name__} without input_dim. Pass the number of "
            "dimensions, or the shape of an event such as (3, 32, 32)."
        )
    sizes = input_dim if isinstance(input_dim, Sequence) and input_dim else [input_dim]
    return torch.Size([positive_int(owner, "input_dim", size) for size in sizes])


def context_size(field: nn.Module, context_dim: int | None) -> int:
    """The size of the context."""
    known = field.context_dim if isinstance(field, Field) else None
    if known is not None and context_dim not in (None, known):
        raise ValueError(
            f"{OWNER} got context_dim={context_dim} for a {type(field).__name__} with "
            f"context_dim={known}. Leave context_dim away."
        )
    if known is not None:
        return known
    return 0 if context_dim is None else non_negative_int(OWNER, "context_dim", context_dim)


def check_signature(field: nn.Module, context_dim: int) -> None:
    """Raises if a module's ``forward`` cannot be called as a field is."""
    arguments = ("t", "z", "context")[: 3 if context_dim else 2]
    try:
        inspect.signature(field.forward).bind(*arguments)
    except TypeError:
        raise TypeError(
            f"{OWNER} calls its field as field({', '.join(arguments)}), which "
            f"{type(field).__name__}.forward does not take. Wrap it in a module whose forward "
            "does: the time comes first, a context last."
        ) from None


def check_values(
    layer: FlowTransform, event: torch.Size, given: Tensor, context: Tensor | None, name: str
) -> Tensor:
    """The values, broadcast with the context's batch, if they are what the layer maps."""
    check_tensor(OWNER, name, given)
    check_event_shape(event, given.shape, name)
    check_context(layer, context)
    check_dtype(OWNER, name, given, layer, "layer")
    if context is None:
        return given
    check_dtype(OWNER, "context", context, layer, "layer")
    batch = given.shape[: given.ndim - len(event)]
    try:
        common = torch.broadcast_shapes(batch, context.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"{OWNER} got {name} with batch shape {tuple(batch)} and a context with batch shape "
            f"{tuple(context.shape[:-1])}, which do not broadcast. Give one context for each row, "
            "or one for all."
        ) from None
    return given.expand(*common, *event)


def check_event_shape(event: torch.Size, shape: torch.Size, name: str) -> torch.Size:
    """The shape, if it ends in that of an event."""
    if len(shape) < len(event) or shape[len(shape) - len(event) :] != event:
        sizes = ", ".join(map(str, event))
        raise ValueError(
            f"{OWNER} got {name} of shape {tuple(shape)}; expected shape (*batch, {sizes})."
        )
    return shape


def refuse_tracing() -> None:
    """Raises under transforms that do not pass through the solvers."""
    if under_functorch() or forward_ad._current_level >= 0 or torch.jit.is_tracing():
        raise RuntimeError(
            f"{OWNER} was called under torch.func, forward mode or torch.jit.trace, which do "
            "not pass through torchdiffeq's solvers. Use torch.autograd (with "
            'gradient="backprop" for second derivatives), and batches instead of vmap.'
        )
