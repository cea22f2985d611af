"""Base distributions at a temperature: the same location, another spread."""

from __future__ import annotations

import copy
from typing import Any

import torch.distributions as dist
from pyro.distributions import MultivariateNormal


def at_temperature(base: Any, temperature: float) -> Any:
    """The distribution with its spread scaled by ``temperature``, its location and shape kept.

    A mixture keeps its weights and locations; the spread of each component is scaled.

    Raises:
        TypeError: If the distribution is none whose spread can be told.
    """
    if isinstance(base, dist.Independent):
        return _with(base, base_dist=at_temperature(base.base_dist, temperature))
    if isinstance(base, dist.MixtureSameFamily):
        components = at_temperature(base.component_distribution, temperature)
        return _with(base, _component_distribution=components)
    if isinstance(base, (dist.Normal, dist.StudentT, dist.Laplace, dist.Cauchy)):
        return _with(base, scale=temperature * base.scale)
    if isinstance(base, dist.MultivariateNormal):
        scale_tril = temperature * base.scale_tril
        return MultivariateNormal(base.loc, scale_tril=scale_tril, validate_args=False)
    raise TypeError(
        f"A flow got temperature={temperature:g} and has a base distribution "
        f"{type(base).__name__}, which has no scale to multiply by it. Leave the temperature at "
        "1, or use a base such as pyro_nf.distributions.DiagonalNormal, StudentT or "
        "GaussianMixture."
    )


def _with(distribution: Any, **attributes: Any) -> Any:
    """A shallow copy with other attributes: of the same class, whatever its constructor takes."""
    new = copy.copy(distribution)
    vars(new).update(attributes)
    return new
