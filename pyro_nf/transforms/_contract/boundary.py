"""Checks of what enters a layer: one sentence of fact, one of remedy."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Sized(Protocol):
    """A layer or a flow, as far as its sizes go."""

    @property
    def input_dim(self) -> int | None: ...

    @property
    def context_dim(self) -> int: ...


def check_tensor(owner: str, name: str, value: Any) -> None:
    """Raises unless ``value`` is a tensor of real floating numbers."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{owner} got {name} of type {type(value).__name__}. Pass a tensor: "
            f"torch.as_tensor({name}, dtype=torch.float32)."
        )
    if not value.is_floating_point():
        raise TypeError(
            f"{owner} got {name} of dtype {value.dtype}. Pass floating numbers: {name}.float()."
        )


def check_dtype(owner: str, name: str, value: Tensor, module: nn.Module) -> None:
    """Raises if ``value`` is of another dtype than the module's parameters."""
    parameter = next(module.parameters(), None)
    if parameter is None or value.dtype == parameter.dtype or _autocasts(value):
        return
    raise TypeError(
        f"{owner} has parameters of dtype {parameter.dtype} and got {name} of dtype "
        f"{value.dtype}. Convert one: {name}.to({parameter.dtype}), or flow.to({value.dtype})."
    )


def _autocasts(value: Tensor) -> bool:
    return value.device.type != "meta" and torch.is_autocast_enabled(value.device.type)


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
    check_tensor(name, "context", context)
    if not size:
        raise ValueError(
            f"{name} was built without context and got one of shape {tuple(context.shape)}. "
            "Leave it out, or build with context_dim; data are scored by flow().log_prob(x)."
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
