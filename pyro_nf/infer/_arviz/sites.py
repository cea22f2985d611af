"""What one run of a model tells of its sites."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

Kind = Literal["latent", "drawn", "data", "derived", "factor"]


class Plate(NamedTuple):
    """A plate around a site.

    Attributes:
        name: Its name.
        size: Number of its rows.
    """

    name: str
    size: int


@dataclass(frozen=True)
class Site:
    """One sample statement.

    Attributes:
        name: Its name.
        kind: "latent" if the guide gave its value, "drawn" if the model drew it, "data" if it is
            observed, "derived" for ``pyro.deterministic``, "factor" for ``pyro.factor``.
        shape: Shape of its value, plates and event.
        batch_shape: Shape of its log density.
        event_dim: Number of event dimensions.
        plates: The plates around it by dimension, counted from the right of the batch.
        fn: Its distribution.
        value: Its value.
    """

    name: str
    kind: Kind
    shape: torch.Size
    batch_shape: torch.Size
    event_dim: int
    plates: dict[int, Plate]
    fn: Any
    value: Tensor


def sites_of(trace: poutine.Trace, latents: Collection[str]) -> dict[str, Site]:
    """Reads the sites of a run, in the model's order.

    Args:
        trace: The run, with its log densities computed.
        latents: The sites whose values the guide gave.
    """
    sites = {}
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        kind = _kind(name, site, latents)
        shape = site["value"].shape
        event_dim = site["fn"].event_dim
        if kind == "data":  # may be given in a smaller shape that broadcasts
            shape = torch.broadcast_shapes(shape, site["fn"].shape())
        if kind == "derived" and event_dim == len(shape):
            event_dim = 0  # unless told otherwise, Pyro takes the plates' dimensions for an event
        frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
        sites[name] = Site(
            name=name,
            kind=kind,
            shape=shape,
            batch_shape=site["log_prob"].shape,
            event_dim=event_dim,
            plates={frame.dim: Plate(frame.name, frame.size) for frame in frames},
            fn=site["fn"],
            value=site["value"],
        )
    return sites


def _kind(name: str, site: Any, latents: Collection[str]) -> Kind:
    if name in latents:
        return "latent"
    if site["infer"].get("_deterministic"):
        return "derived"
    if _holds(site["fn"], dist.Unit):
        return "factor"
    return "data" if site["is_observed"] else "drawn"


def is_improper(site: Site) -> bool:
    """Whether a prior cannot be drawn from: it has no ``sample``, or its density is masked."""
    if _is_masked_out(site.fn):
        return True
    try:
        site.fn.sample()
    except NotImplementedError:
        return True
    return False


def _is_masked_out(fn: Any) -> bool:
    while fn is not None:
        if isinstance(fn, dist.MaskedDistribution) and fn._mask is False:
            return True
        fn = getattr(fn, "base_dist", None)
    return False


def _holds(fn: Any, kind: type) -> bool:
    """Whether a distribution is of a kind, perhaps expanded or masked."""
    while fn is not None:
        if isinstance(fn, kind):
            return True
        fn = getattr(fn, "base_dist", None)
    return False
