"""Checks of what enters a layer: one sentence of fact, one of remedy."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Sized(Protocol):
    """A layer or a flow, as far as its sizes go."""

    @property
    def input_dim(self) -> int | None: ...

    @property
    def context_dim(self) -> int: ...


def check_context(layer: Sized, context: Tensor | None) -> Tensor | None:
    """Returns the context if it is what the layer was built for, else raises."""
    name, size = type(layer).__name__, layer.context_dim
    if context is None:
        if size:
            raise ValueError(
                f"{name} was built with context_dim={size} and got no context. Pass a context of "
                f"shape (*batch, {size}): flow(context), or layer.condition(context)."
            )
        return None
    if not size:
        raise ValueError(
            f"{name} was built without context and got one of shape {tuple(context.shape)}. "
            "Leave it out, or build with context_dim."
        )
    if context.ndim == 0 or context.shape[-1] != size:
        raise ValueError(
            f"{name}(context_dim={size}) got a context of shape {tuple(context.shape)}; expected "
            f"shape (*batch, {size})."
        )
    return context


def check_event(layer: Sized, shape: torch.Size, name: str) -> torch.Size:
    """Returns the shape if its last dimension is the layer's, else raises."""
    size = layer.input_dim
    if size is not None and (not shape or shape[-1] != size):
        got = f"last dimension {shape[-1]}" if shape else "no dimensions"
        raise ValueError(
            f"{type(layer).__name__}(input_dim={size}) got {name} with {got}; expected shape "
            f"(*batch, {size})."
        )
    return shape
