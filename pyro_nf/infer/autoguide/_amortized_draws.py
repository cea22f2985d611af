"""The sample statements of the amortised guide, and quantiles of its draws."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_nf.infer._latents import LatentSite, LatentSpace
from pyro_nf.transforms._contract.features import sum_rightmost


def sample_vector(name: str, distribution: Distribution) -> Tensor:
    """Samples unconstrained latents, at a site that the model does not have."""
    return pyro.sample(name, distribution, infer={"is_auxiliary": True})


def sample_globals(space: LatentSpace, x: Tensor, plates: Mapping[str, Any]) -> dict[str, Tensor]:
    """Samples the sites that unconstrained latents ``(*batch, D)`` stand for."""
    values = {}
    for name, site in space.sites.items():
        # The particles' dimensions lie left of the site's own plates, which x fills up by ones.
        event_dim = site.event_dim + len(site.unconstrained_shape) - len(site.shape)
        lead = x.shape[:-1] + (1,) * event_dim
        shape = torch.broadcast_shapes(site.unconstrained_shape, lead)
        u = x[..., site.start : site.stop].reshape(shape)
        values[name] = _sample_site(name, site, u, plates)
    return values


def sample_rows(
    space: LatentSpace, x: Tensor, plates: Mapping[str, Any], plate_dim: int
) -> dict[str, Tensor]:
    """Samples the sites of rows, given ``(*particles, rows, *ones, d)`` inside of their plate."""
    values = {}
    for name, site in space.sites.items():
        u = x[..., site.start : site.stop]
        u = u.reshape(x.shape[:plate_dim] + site.unconstrained_shape)
        values[name] = _sample_site(name, site, u, plates)
    return values


def _sample_site(name: str, site: LatentSite, u: Tensor, plates: Mapping[str, Any]) -> Tensor:
    """Samples a site at its unconstrained value, inside of its plates.

    Its density is the Jacobian's alone, in the plates too: a batch's is scaled to all rows.
    """
    value = site.transform(u)
    ladj = site.transform.log_abs_det_jacobian(u, value)
    ladj = sum_rightmost(ladj, ladj.ndim - (value.ndim - site.event_dim))
    with ExitStack() as stack:
        for plate in site.plates.values():
            stack.enter_context(plates[plate])
        delta = dist.Delta(value, log_density=-ladj, event_dim=site.event_dim)
        return pyro.sample(name, delta)
