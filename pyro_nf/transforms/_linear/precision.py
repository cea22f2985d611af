"""Half precision, for which torch lacks factorisations and solvers."""

from __future__ import annotations

import torch
from torch import Tensor

_HALF = (torch.bfloat16, torch.float16)


def widen(x: Tensor) -> Tensor:
    """Half precision as float32, any other tensor as it is."""
    return x.float() if x.dtype in _HALF else x


def narrow(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Undoes :func:`widen` for a result that belongs to an input of ``dtype``."""
    return x.to(dtype) if dtype in _HALF else x
