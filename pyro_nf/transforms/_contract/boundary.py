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


def check_dtype(
    owner: str, name: str, value: Tensor, module: nn.Module, kind: str = "flow"
) -> None:
    """Raises if ``value`` is of another dtype than the module's parameters."""
    parameter = _first_parameter(module)
    if parameter is None or value.dtype == parameter.dtype or _autocasts(value):
        return
    raise TypeError(
        f"{owner} has parameters of dtype {parameter.dtype} and got {name} of dtype "
        f"{value.dtype}. Convert one: {name}.to({parameter.dtype}), or {kind}.to({value.dtype})."
    )


def _first_parameter(module: nn.Module) -> Tensor | None:
    """A parameter of the module, at a fifth of the cost of ``next(module.parameters())``."""
    for parameter in module._parameters.values():
        if parameter is not None:
            return parameter
    for child in module._modules.values():
        found = None if child is None else _first_parameter(child)
        if found is not None:
            return found
    return None


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


def refuse_context(layer: object, context: Tensor | None) -> None:
    """Raises if a call ``layer(x, context)`` brought a context, which torch's protocol lacks."""
    if context is not None:
        raise TypeError(
            f"{type(layer).__name__} got a context beside the values, which the call of a torch "
            "transform does not take. Fix it first: layer.condition(context)(x)."
        )


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
