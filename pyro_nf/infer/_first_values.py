"""First values of latents, taken from the sites' shapes and supports, never from priors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, biject_to


def init_to_origin(site: dict[str, Any]) -> Tensor:
    """Puts a site at zero of its unconstrained space: an ``init_loc_fn`` of Pyro's autoguides.

    Only shape and support of the site are read, so improper priors serve too. Discrete sites are
    drawn from.

    Args:
        site: A sample site, as Pyro passes it.

    Returns:
        A value of the site's shape, in the dtype and on the device of its parameters.

    Examples:
        >>> import pyro.distributions as dist
        >>> from pyro_nf.infer.autoguide import init_to_origin
        >>> init_to_origin({"fn": dist.LogNormal(3.0, 1.0).expand([2]).mask(False)})
        tensor([1., 1.])
    """
    return init_to_scattered(site, radius=0.0, seed=0)


def init_to_scattered(site: dict[str, Any], *, radius: float, seed: int) -> Tensor:
    """Puts a site at a point of its unconstrained space, uniform within ``radius`` of zero."""
    distribution = site["fn"]
    if distribution.support.is_discrete:
        return distribution.sample()
    like = _any_parameter(distribution)
    dtype = torch.get_default_dtype() if like is None else like.dtype
    transform = biject_to(distribution.support)
    shape = transform.inverse_shape(distribution.shape())
    generator = torch.Generator("cpu").manual_seed(seed)
    u = radius * (2 * torch.rand(shape, generator=generator, dtype=dtype, device="cpu") - 1)
    return transform(u.to(like.device if like is not None else torch.get_default_device()))


def _any_parameter(distribution: Distribution) -> Tensor | None:
    """A floating-point tensor of a distribution, which tells its dtype and device."""
    found: Tensor | None = None
    for value in vars(distribution).values():
        if isinstance(value, Distribution):
            value = _any_parameter(value)
        if isinstance(value, Tensor) and value.is_floating_point():
            if found is None or torch.finfo(value.dtype).bits > torch.finfo(found.dtype).bits:
                found = value
    return found
