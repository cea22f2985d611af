"""Improper and truncated densities as a Pyro user writes them: proper ones, masked.

A masked distribution keeps its support and its sampler and adds nothing to the log density. So
whatever draws a starting point from the prior works, which it does not on ``ImproperUniform``.
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
from pyro.distributions.transforms import OrderedTransform
from torch import Tensor


def flat(like: Tensor) -> dist.MaskedDistribution:
    """Density 1 on the real vectors (or numbers) of the shape and dtype of ``like``."""
    return dist.Normal(like.new_zeros(like.shape), 1.0).to_event().mask(False)  # noqa: FBT003


def flat_positive(like: Tensor) -> dist.MaskedDistribution:
    """Density 1 on the positive vectors (or numbers) of the shape and dtype of ``like``."""
    return dist.LogNormal(like.new_zeros(like.shape), 1.0).to_event().mask(False)  # noqa: FBT003


def flat_ordered(like: Tensor) -> dist.MaskedDistribution:
    """Density 1 on the increasing vectors of the shape and dtype of ``like``."""
    steps = dist.Normal(like.new_zeros(like.shape), 1.0).to_event()
    ordered = dist.TransformedDistribution(steps, [OrderedTransform()])
    return ordered.mask(False)  # noqa: FBT003


def sample_positive(name: str, density: Any) -> Tensor:
    """Samples a latent above zero from a density on the real line cut off there, unnormalised.

    Args:
        name: The site's name; the factor is called ``NAME_prior``.
        density: A distribution on the real line, of no event dimensions and no batch.
    """
    value = pyro.sample(name, flat_positive(density.mean))
    pyro.factor(f"{name}_prior", density.log_prob(value))
    return value
