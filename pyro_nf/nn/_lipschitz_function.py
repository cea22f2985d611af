"""A Lipschitz network as a function of columns, with Jacobians in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_nf.nn._contractive import Sloped


class LipschitzLayer(NamedTuple):
    """The numbers of a layer, read and scaled: ``weight @ a(z) + bypass @ z + shift``.

    Attributes:
        weight: Shape ``(outputs, inputs)``.
        bypass: Shape ``(outputs, inputs)``; None unless the activation before is concatenated.
        shift: Shape ``(outputs, 1)`` or ``(outputs, columns)``.
    """

    weight: Tensor
    bypass: Tensor | None
    shift: Tensor


@dataclass(frozen=True)
class LipschitzFunction:
    """A Lipschitz network for one context: a function of columns, its weights read and scaled.

    Attributes:
        layers: The layers' numbers.
        activations: Between the layers.
    """

    layers: tuple[LipschitzLayer, ...]
    activations: tuple[Sloped, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Maps ``(input_dim, columns)`` to ``(output_dim, columns)``."""
        first, *others = self.layers
        z = torch.addmm(first.shift, first.weight, x)
        for activation, layer in zip(self.activations, others, strict=True):
            z = _apply(layer, activation(z)[0], z)
        return z

    def with_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps the columns and computes the Jacobian of each, in forward mode.

        Args:
            x: Shape ``(input_dim, columns)``.

        Returns:
            The values, ``(output_dim, columns)``, and the Jacobians,
            ``(output_dim, input_dim, columns)``.
        """
        first, *others = self.layers
        z = torch.addmm(first.shift, first.weight, x)
        tangents = first.weight.unsqueeze(-1)  # (units, inputs, columns), here of one column
        for activation, layer in zip(self.activations, others, strict=True):
            value, slope = activation(z)
            z = _apply(layer, value, z)
            pushed = _push(layer.weight, slope.unsqueeze(1) * tangents)
            if layer.bypass is not None:
                pushed = pushed + _push(layer.bypass, tangents)
            tangents = pushed
        return z, tangents.expand(*tangents.shape[:2], x.shape[1])


def _apply(layer: LipschitzLayer, value: Tensor, z: Tensor) -> Tensor:
    result = torch.addmm(layer.shift, layer.weight, value)
    return result if layer.bypass is None else torch.addmm(result, layer.bypass, z)


def _push(weight: Tensor, tangents: Tensor) -> Tensor:
    """A matrix times the tangents ``(units, inputs, columns)``."""
    units, inputs, columns = tangents.shape
    flat = weight @ tangents.reshape(units, inputs * columns)
    return flat.reshape(len(weight), inputs, columns)
