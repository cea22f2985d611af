"""Weights that Pyro samples, held fixed for as long as a distribution needs them.

A ``PyroSample`` attribute draws anew whenever it is read outside the running model, and a
distribution is scored after the model has returned. So the drawn values are bound once, into a
structural copy of the module tree that shares all other state.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, TypeVar

from pyro.nn import PyroModule
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class _InertContext:
    """Stands in for Pyro's context in a bound copy: reading its attributes declares nothing."""

    active = False
    used = False

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def holds_samples(module: nn.Module) -> bool:
    """Whether reading the module's weights may run Pyro statements."""
    # At a tenth of the cost of module.modules(), which also looks for repetitions.
    waiting: list[nn.Module | None] = [module]
    for part in waiting:  # grows on the way
        if isinstance(part, PyroModule):
            return True
        if part is not None:
            waiting += part._modules.values()
    return False


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
            names = [*module._parameters, *module._pyro_params]
            copy.__dict__.update({name: getattr(module, name) for name in names})
            drawn = {name: _one_draw(module, name) for name in module._pyro_samples}
            copy.__dict__.update(drawn)
            copy.__dict__["_pyro_context"] = _InertContext()
        # Read children by attribute: a PyroModule declares its plain children's parameters so.
        children = {
            name: None if child is None else _bind(getattr(module, name), done)
            for name, child in module._modules.items()
        }
    copy.__dict__["_modules"] = children
    return copy


def _one_draw(module: Any, name: str) -> Tensor:
    """The value of a ``PyroSample``; raises if a plate has made it many."""
    value, prior = getattr(module, name), module._pyro_samples[name]
    if not hasattr(prior, "sample"):  # a function of the module, as PyroSample allows
        prior = prior(module)
    if isinstance(prior, Tensor) or value.shape == prior.shape():
        return value
    raise ValueError(
        f"{type(module).__name__}.{name} was sampled with shape {tuple(value.shape)}; its prior "
        f"has shape {tuple(prior.shape())}. A flow takes one draw of its weights at a time: call "
        "it outside of plates, with vectorize_particles=False and Predictive(parallel=False)."
    )
