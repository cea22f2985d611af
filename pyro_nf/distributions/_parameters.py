"""What the base distributions share: their parameters from numbers, and soft bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pyro_nf._checks import choice

Parameters = Literal["fixed", "learned"]
Values = float | Sequence[float] | Tensor


def check_parameters(owner: str, value: Parameters) -> bool:
    """Returns whether the parameters are learned, or raises if ``value`` is not one of the two."""
    return choice(owner, "parameters", value, ("fixed", "learned")) == "learned"


def per_dimension(owner: str, name: str, value: Values, input_dim: int) -> Tensor:
    """Creates a tensor of shape ``(input_dim,)`` from one number or one for each dimension."""
    tensor = torch.as_tensor(value)
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.get_default_dtype())
    if tuple(tensor.shape) not in ((), (1,), (input_dim,)):
        raise ValueError(
            f"{owner}(input_dim={input_dim}) got {name} of shape {tuple(tensor.shape)}. Pass one "
            f"number, or {input_dim} of them."
        )
    if not (tensor.is_meta or bool(tensor.isfinite().all())):
        raise ValueError(f"{owner} got {name}={value}. Pass finite numbers.")
    return tensor.detach().expand(input_dim).clone()


def softly_bounded(value: Tensor, bound: float) -> Tensor:
    """The identity near 0 that stays in ``(-bound, bound)``, with a gradient everywhere."""
    return bound * torch.tanh(value / bound)
