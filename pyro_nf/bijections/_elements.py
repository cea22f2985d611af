"""Checks and reshapes the two tensors that every scalar bijection receives."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_nf.bijections._base import ScalarBijection


def check_params(bijection: ScalarBijection, value: Tensor, params: Tensor) -> None:
    """Raises unless ``params`` has one leading row for each parameter of each element."""
    expected = (bijection.param_count, *value.shape)
    if params.shape != expected:
        raise ValueError(
            f"{type(bijection).__name__} got params of shape {tuple(params.shape)} for elements "
            f"of shape {tuple(value.shape)}. Pass params of shape {expected}: "
            f"{bijection.param_count} for each element, leading."
        )


def flat_elements(
    bijection: ScalarBijection, value: Tensor, params: Tensor
) -> tuple[Tensor, Tensor, torch.dtype]:
    """Returns flat values ``(n,)`` and parameters ``(rows, n)``, and the dtype of the result.

    Half precision has too few digits to tell knots apart, so it becomes float32 here.
    """
    check_params(bijection, value, params)
    dtype = torch.promote_types(value.dtype, params.dtype)
    work = torch.promote_types(dtype, torch.float32)
    n = value.numel()
    return value.reshape(n).to(work), params.reshape(params.shape[0], n).to(work), dtype
