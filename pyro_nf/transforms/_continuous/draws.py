"""What a solve draws at its beginning and holds fixed."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pyro_nf._precision import widen

Probe = Literal["rademacher", "gaussian"]


def random_vectors(probe: Probe, z: Tensor) -> Tensor:
    """Vectors of mean 0 and unit covariance, one for each sample, of the shape of z."""
    if probe == "gaussian":
        return torch.randn_like(z)
    return torch.empty_like(z).bernoulli_(0.5).mul_(2).sub_(1)


def drawn_end_time(end_time: float | Tensor, width: float, z: Tensor) -> Tensor:
    """The end time, with a ``width`` uniform within this share of it on either side."""
    mean = widen(end_time) if isinstance(end_time, Tensor) else z.new_full((), end_time)
    if not width:
        return mean
    return mean * (1 + width * torch.empty_like(mean.detach()).uniform_(-1, 1))
