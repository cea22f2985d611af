"""Smooth activations with their slopes: both differentiable, as the gradient of a trace needs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from pyro_nf.nn._contractive import Sloped

Smooth = Literal["tanh", "softplus", "silu", "sin"]


def _tanh(z: Tensor) -> tuple[Tensor, Tensor]:
    value = torch.tanh(z)
    return value, torch.addcmul(value.new_ones(()), value, value, value=-1)  # in one pass


def _softplus(z: Tensor) -> tuple[Tensor, Tensor]:
    # Torch's own threshold, 20, is where float64 still sees the slope differ from 1.
    return nn.functional.softplus(z, threshold=40), torch.sigmoid(z)


def _silu(z: Tensor) -> tuple[Tensor, Tensor]:
    gate = torch.sigmoid(z)
    value = z * gate
    return value, gate + value * (1 - gate)


def _sin(z: Tensor) -> tuple[Tensor, Tensor]:
    return torch.sin(z), torch.cos(z)


SMOOTH: dict[str, Sloped] = {
    "tanh": _tanh,
    "softplus": _softplus,
    "silu": _silu,
    "sin": _sin,
}
