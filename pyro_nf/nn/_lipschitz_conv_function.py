"""A Lipschitz network of images as a function of columns, with Jacobians by tangents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_nf.nn._contractive import Fixed, Sloped, Swish
from pyro_nf.nn._pixel_colours import colour_pixels
from pyro_nf.nn._smooth import SMOOTH
from pyro_nf.nn._spectral_conv import half

_TANGENTS_AT_ONCE = 2**20  # numbers in a hidden layer: 4 MiB of float32


class LipschitzConvLayer(NamedTuple):
    """The numbers of a layer, read and scaled: ``weight * a(z) + bypass * z + bias + shift``.

    Attributes:
        weight: A kernel, shape ``(outputs, inputs, k, l)``.
        bypass: Another; None unless the activation before is concatenated.
        bias: Shape ``(outputs,)``.
        shift: The context's term, broadcasting to ``(*batch, H, W, outputs)``; None without.
    """

    weight: Tensor
    bypass: Tensor | None
    bias: Tensor
    shift: Tensor | None

    def scaled(self, factor: Tensor) -> LipschitzConvLayer:
        """The layer whose result is this one's times a factor."""
        bypass = None if self.bypass is None else self.bypass * factor
        shift = None if self.shift is None else self.shift * factor
        return LipschitzConvLayer(self.weight * factor, bypass, self.bias * factor, shift)

    def reading(self, factor: Tensor) -> LipschitzConvLayer:
        """The layer that gives the same for values and z a factor larger."""
        bypass = None if self.bypass is None else self.bypass / factor
        return self._replace(weight=self.weight / factor, bypass=bypass)


class Pointwise(NamedTuple):
    """An activation without parameters.

    Attributes:
        value: The function, alone.
        sloped: The function with its slope.
    """

    value: Callable[[Tensor], Tensor]
    sloped: Sloped


_SILU = Pointwise(nn.functional.silu, SMOOTH["silu"])
_FIXED: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "elu": nn.functional.elu,
    "softplus": nn.functional.softplus,
}


def with_pointwise(
    layers: Sequence[LipschitzConvLayer], activations: Sequence[Swish | Fixed]
) -> tuple[tuple[LipschitzConvLayer, ...], tuple[Pointwise, ...]]:
    """Moves the sharpness of every swish, silu(βz)/β, into the layers before and after it.

    They are small beside the images, and what is left between them is one operation of torch.
    """
    found = list(layers)
    for i, activation in enumerate(activations):
        if isinstance(activation, Swish):
            beta = activation.sharpness().clamp(min=1e-6)  # it must have a reciprocal
            found[i], found[i + 1] = found[i].scaled(beta), found[i + 1].reading(beta)
    return tuple(found), tuple(
        _SILU if isinstance(a, Swish) else Pointwise(_FIXED[a.name], a.read()) for a in activations
    )


@dataclass(frozen=True)
class LipschitzConvFunction:
    """A Lipschitz network of images for one context, its weights read and scaled.

    It maps columns: images with their numbers in the order height, width, channels. A column is
    best the transpose of a contiguous row, ``(columns, H, W, C).flatten(1).t()``: then neither
    columns nor images are ever copied.

    Attributes:
        layers: The layers' numbers.
        activations: Between the layers.
        image_shape: Channels, height and width.
        batch: The batch of the images, which the columns are.
    """

    layers: tuple[LipschitzConvLayer, ...]
    activations: tuple[Pointwise, ...]
    image_shape: tuple[int, int, int]
    batch: torch.Size

    def __call__(self, x: Tensor) -> Tensor:
        """Maps ``(D, columns)`` to ``(D, columns)``."""
        first, *others = self.layers
        z = self._shifted(first, _convolve(first.weight, self._images(x), first.bias))
        for activation, layer in zip(self.activations, others, strict=True):
            z = self._apply(layer, activation.value(z), z)
        return _columns(z)

    def with_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps the columns and computes the Jacobian of each, by tangents through the network.

        Args:
            x: Shape ``(D, columns)``.

        Returns:
            The values, ``(D, columns)``, and the Jacobians, ``(D, D, columns)``.
        """
        first, *others = self.layers
        z = self._shifted(first, _convolve(first.weight, self._images(x), first.bias))
        slopes = []
        for activation, layer in zip(self.activations, others, strict=True):
            value, slope = activation.sloped(z)
            slopes.append(slope)
            z = self._apply(layer, value, z)
        colouring = colour_pixels(self.image_shape, self._reach(), x)
        columns = x.shape[1]
        width = max(layer.weight.shape[0] for layer in self.layers)
        numbers = columns * width * math.prod(self.image_shape[1:])
        parts = colouring.directions.split(max(1, _TANGENTS_AT_ONCE // max(1, numbers)))
        pushed = torch.cat([self._push(part, slopes, columns) for part in parts])
        return _columns(z), colouring.spread(pushed).permute(2, 0, 1)

    def _reach(self) -> tuple[int, int]:
        """How many rows and columns away an output pixel sees."""
        halves = [half(layer.weight) for layer in self.layers]
        return sum(rows for rows, _ in halves), sum(columns for _, columns in halves)

    def _push(self, directions: Tensor, slopes: list[Tensor], columns: int) -> Tensor:
        """The tangents ``(K, columns, D)`` of K directions ``(K, D)``."""
        first, *others = self.layers
        tangents = _convolve(first.weight, self._images(directions.t())).unsqueeze(1)
        for slope, layer in zip(slopes, others, strict=True):
            changed = _each(layer.weight, slope * tangents)  # (K, columns, outputs, H, W)
            if layer.bypass is not None:
                changed = changed + _each(layer.bypass, tangents)
            tangents = changed
        flat = tangents.movedim(2, -1).flatten(2)
        return flat.expand(-1, columns, -1)

    def _images(self, columns: Tensor) -> Tensor:
        channels, height, width = self.image_shape
        return columns.t().reshape(-1, height, width, channels).permute(0, 3, 1, 2)

    def _apply(self, layer: LipschitzConvLayer, value: Tensor, z: Tensor) -> Tensor:
        result = _convolve(layer.weight, value, layer.bias)
        if layer.bypass is not None:
            result = result + _convolve(layer.bypass, z)
        return self._shifted(layer, result)

    def _shifted(self, layer: LipschitzConvLayer, z: Tensor) -> Tensor:
        if layer.shift is None:
            return z
        pixels = z.movedim(1, -1)
        images = pixels.reshape(*self.batch, *pixels.shape[1:])
        return (images + layer.shift).reshape(pixels.shape).movedim(-1, 1)


def _columns(images: Tensor) -> Tensor:
    return images.movedim(1, -1).flatten(1).t()


def _convolve(weight: Tensor, images: Tensor, bias: Tensor | None = None) -> Tensor:
    return nn.functional.conv2d(images, weight, bias, padding=half(weight))


def _each(weight: Tensor, tangents: Tensor) -> Tensor:
    """Convolves images ``(K, columns, inputs, H, W)``."""
    return _convolve(weight, tangents.flatten(0, 1)).unflatten(0, tangents.shape[:2])
