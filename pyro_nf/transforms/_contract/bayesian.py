"""Weights that Pyro samples, held fixed for as long as a distribution needs them.

A ``PyroSample`` attribute draws anew whenever it is read outside the running model, and a
distribution is scored after the model has returned. So the drawn values are bound once, into a
structural copy of the module tree that shares all other state.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, TypeVar

from pyro.nn import PyroModule
from torch import nn

M = TypeVar("M", bound=nn.Module)


class _InertContext:
    """Stands in for Pyro's context in a bound copy: reading its attributes declares nothing."""

    active = False
    used = False

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def holds_samples(module: nn.Module) -> bool:
    """Whether reading the module's weights may run Pyro statements."""
    return any(isinstance(part, PyroModule) for part in module.modules())


def bind_samples(module: M) -> M:
    """Creates a copy whose sampled weights are drawn now and stay; the rest is shared."""
    return _bind(module, {})


def _bind(module: Any, done: dict[int, Any]) -> Any:
    if id(module) in done:
        return done[id(module)]
    copy = object.__new__(type(module))
    done[id(module)] = copy
    copy.__dict__ = dict(module.__dict__)
    if "_inverse_layer" in copy.__dict__:
        copy.__dict__["_inverse_layer"] = None
    is_pyro = isinstance(module, PyroModule)
    with module._pyro_context if is_pyro else nullcontext():
        if is_pyro:
            names = [*module._parameters, *module._pyro_params, *module._pyro_samples]
            copy.__dict__.update({name: getattr(module, name) for name in names})
            copy.__dict__["_pyro_context"] = _InertContext()
        # Read children by attribute: a PyroModule declares its plain children's parameters so.
        children = {
            name: None if child is None else _bind(getattr(module, name), done)
            for name, child in module._modules.items()
        }
    copy.__dict__["_modules"] = children
    return copy
