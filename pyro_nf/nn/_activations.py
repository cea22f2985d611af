"""Activations by name, function or module: a fresh object for every layer."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn

from pyro_nf._checks import choice

Activation = str | Callable[[Tensor], Tensor]

_BY_NAME: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
}


class _Elementwise(nn.Module):
    """A plain function as a module, so that every layer holds one kind of thing."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Applies the function."""
        return self.function(x)

    def extra_repr(self) -> str:
        """Shows the function's name."""
        return getattr(self.function, "__name__", repr(self.function))


def make_activations(owner: str, activation: Activation, count: int) -> nn.ModuleList:
    """Creates ``count`` activation modules that share no object."""
    return nn.ModuleList(_make(owner, activation) for _ in range(count))


def _make(owner: str, activation: Activation) -> nn.Module:
    if isinstance(activation, str):
        return _BY_NAME[choice(owner, "activation", activation, tuple(_BY_NAME))]()
    if isinstance(activation, nn.Module):
        return copy.deepcopy(activation)
    if isinstance(activation, type) or not callable(activation):
        raise TypeError(
            f"{owner} got activation={activation!r}. "
            "Pass a name such as 'relu', a function such as torch.sin, or an nn.Module instance."
        )
    return _Elementwise(activation)
