"""Half precision, for which torch lacks factorisations and solvers, and autocast into it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

_HALF = (torch.bfloat16, torch.float16)


def widen(x: Tensor) -> Tensor:
    """Half precision, in which sums lose all digits, as float32; any other tensor as it is."""
    return x.float() if x.dtype in _HALF else x


def without_autocast(h: Tensor) -> AbstractContextManager[Any]:
    """Turns autocast off: in half precision no search settles, nor is there a determinant."""
    if h.device.type == "meta" or not torch.is_autocast_enabled(h.device.type):
        return nullcontext()
    return torch.autocast(h.device.type, enabled=False)


def as_parameters(context: Tensor | None, module: nn.Module) -> Tensor | None:
    """A context that autocast made half precision, in the dtype of a network's parameters."""
    parameter = next(module.parameters(), None)
    if context is None or parameter is None or context.dtype not in _HALF:
        return context
    return context.to(parameter.dtype)


def narrow(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Undoes :func:`widen` for a result that belongs to an input of ``dtype``."""
    return x.to(dtype) if dtype in _HALF else x
