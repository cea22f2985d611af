"""Increasing activations and their slopes, exact far into saturation."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

MonotoneName = Literal["ELU", "LeakyReLU", "sigmoid", "tanh"]

_LEAK = 0.01


def softplus(x: Tensor) -> Tensor:
    """Computes log(1 + eˣ) to the last digit of float64: torch's own cuts off at 2e-9."""
    return F.softplus(x, threshold=40.0)


class Monotone:
    """An increasing elementwise function (abstract).

    Every method is elementwise in the argument x and, where it is asked for, in the value y.

    Attributes:
        onto: Whether its range is all of ℝ.
    """

    onto = False

    def value(self, x: Tensor) -> Tensor:
        """The function."""
        raise NotImplementedError

    def log_slope(self, x: Tensor) -> Tensor:
        """The logarithm of the derivative, finite at every finite x, differentiable throughout."""
        raise NotImplementedError

    def scaled_slope(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The derivative in two factors: slopes of order 1, and a scale for each column.

        Args:
            x: Shape ``(D, b, N)``; without a graph.
            y: The values, of the shape of x.

        Returns:
            The derivative divided by its scale, ``(D, b, N)``, and the scale's logarithm,
            ``(D, 1, N)``. The largest slope over the axis of size b is of order 1.
        """
        raise NotImplementedError

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """The derivative."""
        raise NotImplementedError

    def bend(self, x: Tensor, y: Tensor) -> Tensor:
        """The derivative of the log-slope."""
        raise NotImplementedError


class Tanh(Monotone):
    """The hyperbolic tangent."""

    def value(self, x: Tensor) -> Tensor:
        """Computes tanh x."""
        return torch.tanh(x)

    def log_slope(self, x: Tensor) -> Tensor:
        """Computes log sech² x."""
        return 2 * (math.log(2) - x - softplus(-2 * x))

    def scaled_slope(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Splits sech² x = (1 + |y|)² exp(-2|x|)."""
        size = x.abs()
        least = size.amin(1, keepdim=True)
        growth = size.sub_(least).exp_()
        return y.abs().add_(1).div_(growth).square_(), -2 * least

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Computes 1 - y²."""
        del x
        return 1 - y.square()

    def bend(self, x: Tensor, y: Tensor) -> Tensor:
        """Computes -2y."""
        del x
        return -2 * y


class Sigmoid(Monotone):
    """The logistic function."""

    def value(self, x: Tensor) -> Tensor:
        """Computes 1 / (1 + exp(-x))."""
        return torch.sigmoid(x)

    def log_slope(self, x: Tensor) -> Tensor:
        """Computes the logarithm of y (1 - y)."""
        return -softplus(-x) - softplus(x)

    def scaled_slope(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Splits y (1 - y) = max(y, 1 - y)² exp(-|x|)."""
        size = x.abs()
        least = size.amin(1, keepdim=True)
        growth = size.sub_(least).exp_()
        return torch.maximum(y, 1 - y).square_().div_(growth), -least

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Computes y (1 - y)."""
        del x
        return y * (1 - y)

    def bend(self, x: Tensor, y: Tensor) -> Tensor:
        """Computes 1 - 2y."""
        del x
        return 1 - 2 * y


class ELU(Monotone):
    """The identity above 0, eˣ - 1 below."""

    def value(self, x: Tensor) -> Tensor:
        """Computes max(x, 0) + exp(min(x, 0)) - 1."""
        return F.elu(x)

    def log_slope(self, x: Tensor) -> Tensor:
        """Computes min(x, 0)."""
        return x.clamp(max=0)

    def scaled_slope(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Splits off the exponential at the largest x."""
        del y
        log_slope = self.log_slope(x)
        peak = log_slope.amax(1, keepdim=True)
        return log_slope.sub_(peak).exp_(), peak

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Computes exp(min(x, 0))."""
        del y
        return self.log_slope(x).exp()

    def bend(self, x: Tensor, y: Tensor) -> Tensor:
        """Computes 1 below 0, 0 above."""
        del y
        return (x < 0).to(x.dtype)


class LeakyReLU(Monotone):
    """The identity above 0, x / 100 below."""

    onto = True

    def value(self, x: Tensor) -> Tensor:
        """Computes max(x, x / 100)."""
        return F.leaky_relu(x, _LEAK)

    def log_slope(self, x: Tensor) -> Tensor:
        """Computes 0 above 0, -log 100 below."""
        return (x < 0).to(x.dtype) * math.log(_LEAK)

    def scaled_slope(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Leaves the slopes as they are: they are of order 1."""
        return self.slope(x, y), x.new_zeros(x.shape[0], 1, x.shape[2])

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Computes 1 above 0, 1/100 below."""
        del y
        return 1 - (x < 0).to(x.dtype) * (1 - _LEAK)

    def bend(self, x: Tensor, y: Tensor) -> Tensor:
        """Computes 0."""
        del y
        return torch.zeros_like(x)


MONOTONE: dict[str, Monotone] = {
    "ELU": ELU(),
    "LeakyReLU": LeakyReLU(),
    "sigmoid": Sigmoid(),
    "tanh": Tanh(),
}
