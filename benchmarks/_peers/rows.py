"""What nflows and normflows, which share their origin, have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks._peers.architecture import Spec
from benchmarks._peers.weights import Layout, features_first


class RowMLP(nn.Module):
    """A perceptron of rows as both call it, with a context that is always None.

    Its attribute ``hidden_features`` is what both divide raw widths and heights by the root of.
    """

    def __init__(self, inputs: int, outputs: int, *, widths: Sequence[int]) -> None:
        super().__init__()
        sizes = [inputs, *widths]
        parts: list[nn.Module] = []
        for before, after in zip(sizes[:-1], sizes[1:], strict=True):
            parts += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*parts, nn.Linear(sizes[-1], outputs))
        self.hidden_features = widths[-1]

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        """Evaluates the network on rows."""
        del context
        return self.layers(x)


def scale_divisor(network: nn.Module) -> float:
    """What raw widths and heights are divided by: the root of a width that the network names."""
    return math.sqrt(getattr(network, "hidden_features", 1))


def made_layout(spec: Spec) -> Layout:
    """The outputs of an autoregressive network: of an affine map, raw scale and shift."""
    if spec.splines:
        return features_first
    return lambda index: features_first(torch.flip(index, [0]))
