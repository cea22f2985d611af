"""The tensors of a user's module, read once and put into a copy of it."""

from __future__ import annotations

from typing import Any

from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_nf.nn.field import Values


def read_values(module: nn.Module) -> Values:
    """All parameters and buffers of a module by name, and the weights that Pyro sampled.

    A ``PyroSample`` weight must have been bound to its draw: the solver would draw it anew at
    every evaluation.
    """
    values: Values = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        for name in _names(part):
            value = getattr(part, name)
            if isinstance(value, Tensor):
                values[f"{prefix}.{name}" if prefix else name] = value
    return values


def with_values(module: nn.Module, values: Values, prefix: str = "") -> Any:
    """A copy of the module tree that reads these tensors; all else is shared."""
    copy = object.__new__(type(module))
    copy.__dict__ = dict(module.__dict__)
    own = {name: values[prefix + name] for name in _names(module) if prefix + name in values}
    copy.__dict__["_parameters"] = {**module._parameters, **_within(module._parameters, own)}
    copy.__dict__["_buffers"] = {**module._buffers, **_within(module._buffers, own)}
    # Bound draws of a PyroModule lie in the instance itself, past both registries.
    copy.__dict__.update(_within(module.__dict__, own))
    copy.__dict__["_modules"] = {
        name: None if child is None else with_values(child, values, f"{prefix}{name}.")
        for name, child in module._modules.items()
    }
    return copy


def _names(part: nn.Module) -> list[str]:
    names = [*part._parameters, *part._buffers]
    if isinstance(part, PyroModule):
        own = (*part._pyro_params, *part._pyro_samples)
        names += [name for name in own if name in part.__dict__]
    return names


def _within(registry: dict[str, Any], own: Values) -> Values:
    return {name: value for name, value in own.items() if name in registry}
