"""Quantiles of draws, site by site."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_nf.infer._latents import LatentSpace


def site_quantiles(
    space: LatentSpace, z: Tensor, quantiles: Sequence[float] | Tensor
) -> dict[str, Tensor]:
    """Quantiles of each site over the first dimension of unconstrained draws."""
    at = torch.as_tensor(quantiles)
    values, _ = space.constrain(z)
    return {name: _quantiles(v, at.to(v.device, v.dtype)) for name, v in values.items()}


def _quantiles(draws: Tensor, at: Tensor) -> Tensor:
    """Quantiles over the first dimension, which torch limits to 16 million numbers at once."""
    flat = draws.reshape(len(draws), -1)
    columns = [torch.quantile(column, at) for column in flat.unbind(1)]
    return torch.stack(columns, -1).reshape(len(at), *draws.shape[1:])
