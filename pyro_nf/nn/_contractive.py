"""Activations with known Lipschitz constants, and their slopes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Contractive = Literal["concat_lipswish", "lipswish", "tanh", "elu", "softplus"]
Sloped = Callable[[Tensor], tuple[Tensor, Tensor]]
"""``z -> (a(z), a'(z))``, elementwise."""

# The concatenated activation hands (a(z), a(z) - z) on: twice the values. Its constant is the
# largest norm of its two slopes, that of swish the largest slope; neither depends on β.
CONSTANTS: dict[str, float] = {
    "concat_lipswish": 1.10437,
    "lipswish": 1.09985,
    "tanh": 1.0,
    "elu": 1.0,
    "softplus": 1.0,
}


class Swish(nn.Module):
    r"""Swish, :math:`z \, σ(βz)`, with a learned sharpness β > 0, one for the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.raw_beta = nn.Parameter(torch.tensor(0.5))

    def sharpness(self) -> Tensor:
        """β, a scalar, in float32 at least."""
        raw = self.raw_beta
        return nn.functional.softplus(raw.to(torch.promote_types(raw.dtype, torch.float32)))

    def read(self) -> Sloped:
        """The function with its slope; reads β once."""
        beta = self.sharpness()

        def sloped(z: Tensor) -> tuple[Tensor, Tensor]:
            gate = torch.sigmoid(beta * z)
            value = z * gate
            return value, gate + beta * (value - value * gate)

        return sloped


class Fixed(nn.Module):
    """An activation without parameters."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def read(self) -> Sloped:
        """The function with its slope."""
        return _FIXED[self.name]

    def extra_repr(self) -> str:
        """Shows the function's name."""
        return self.name


def make_contractive(name: Contractive) -> Swish | Fixed:
    """Creates the activation of this name, without the scale that its constant asks for."""
    return Fixed(name) if name in _FIXED else Swish()


def _tanh(z: Tensor) -> tuple[Tensor, Tensor]:
    value = torch.tanh(z)
    return value, 1 - value.square()


def _elu(z: Tensor) -> tuple[Tensor, Tensor]:
    decay = torch.exp(z.clamp(max=0))
    return torch.where(z > 0, z, decay - 1), decay


def _softplus(z: Tensor) -> tuple[Tensor, Tensor]:
    return nn.functional.softplus(z), torch.sigmoid(z)


_FIXED: dict[str, Sloped] = {"tanh": _tanh, "elu": _elu, "softplus": _softplus}
