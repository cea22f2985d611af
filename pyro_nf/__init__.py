"""Normalizing flows for Pyro.

The rooms, in the order in which they build on one another:

- ``bijections``: elementwise and vector maps as pure maths.
- ``nn``: networks that make the parameters of a map.
- ``transforms``: Pyro transform modules.
- ``distributions``: base distributions, and flows as distributions.
- ``flows``: named flows, one function each.
- ``infer``: fitting densities and guides, and judging the fit.
- ``plot``: pictures (needs matplotlib).

A room is imported when it is first used.
"""

from __future__ import annotations

import importlib
from types import ModuleType

__version__ = "0.1.0"

_ROOMS = ("bijections", "distributions", "flows", "infer", "nn", "plot", "transforms")

__all__ = ["__version__", *_ROOMS]


def __getattr__(name: str) -> ModuleType:
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
