"""What a network reads of its inputs: their values, or, of angles, cosine and sine."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pyro_nf._checks import choice

Features = Literal["values", "periodic"]


def check_features(owner: str, features: Features) -> Features:
    """Returns ``features`` if it is one of the two kinds, else raises."""
    return choice(owner, "features", features, ("values", "periodic"))


def features_per_input(features: Features) -> int:
    """The number of features that stand for one input."""
    return 2 if features == "periodic" else 1


def encode(features: Features, x: Tensor) -> Tensor:
    """Maps inputs ``(D, *batch)`` to features: cos x_0, sin x_0, cos x_1, ... if periodic."""
    if features == "values":
        return x
    return torch.stack([x.cos(), x.sin()], 1).flatten(0, 1)


def encoding_slopes(encoded: Tensor) -> Tensor:
    """The derivatives ``(D, 2, *batch)`` of periodic features by their inputs."""
    cosine, sine = encoded.unflatten(0, (-1, 2)).unbind(1)
    return torch.stack([-sine, cosine], 1)
