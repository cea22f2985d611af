"""The factors of a model's density: which latents stand together in one log-probability."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.infer.inspect import get_dependencies
from torch import Tensor

from pyro_nf.infer._first_values import init_to_scattered
from pyro_nf.infer._structure_runs import (
    Model,
    apart,
    is_latent,
    log_probs,
    run_model,
    sample_sites,
    vectorized_plates,
)


class StructureError(ValueError):
    """The model's structure cannot be read off its runs; the message says why."""


@dataclass(frozen=True)
class Factor:
    """The log-probability of one sample site.

    Attributes:
        name: The site's name.
        latents: The latent sites that it depends on, itself among them if it is latent.
        plates: Plates around it whose rows it keeps apart: row i depends on rows i alone.
    """

    name: str
    latents: frozenset[str]
    plates: frozenset[str]


@dataclass(frozen=True)
class Latent:
    """A latent site of a run.

    Attributes:
        name: Its name.
        batch_shape: Sizes of its batch dimensions.
        plates: Names of the plates around it by dimension, counted from the right of the batch.
        numel: Number of entries of its value.
    """

    name: str
    batch_shape: torch.Size
    plates: dict[int, str]
    numel: int


@dataclass(frozen=True)
class Factors:
    """All factors of a model.

    Attributes:
        factors: One for each sample site.
        latents: The latents by name, in the model's order.
        coupled: Plates whose rows depend on each other.
    """

    factors: tuple[Factor, ...]
    latents: dict[str, Latent]
    coupled: frozenset[str]


def find_factors(model: Model) -> Factors:
    """Finds which latents each sample site's log-probability depends on.

    The parents of a site are those that Pyro's ``get_dependencies`` names and those that autograd
    finds a path from. Either alone misses some: the first loses track inside of ``torch.vmap``
    and where values are written into a tensor in place, the second at integers. Whether the rows
    of a plate are independent is tested by values: latents at some rows are moved, and the
    log-probabilities at the others must stand still. Dependence through Python's own control
    flow, ``if tau > 1``, leaves no trace.

    Nothing is drawn from priors of continuous latents, some of which cannot be drawn from.

    Cost: three runs of the model, and 2 log₂ n for each plate of n rows around a latent.

    Raises:
        StructureError: If two runs at different values of the latents differ in their sites.
    """
    named = _tracked_parents(model)
    trace = run_model(model, {}, seed=2)
    sites = dict(sample_sites(trace))
    if named.keys() != sites.keys():
        changing = ", ".join(sorted(named.keys() ^ sites.keys()))
        raise StructureError(f"its sites {changing} come and go with the values of others")
    latents = {name: _latent(name, site) for name, site in sites.items() if is_latent(site)}
    paths = _parents_by_autograd(model, trace)
    around = {plate for latent in latents.values() for plate in latent.plates.values()}
    coupled = {plate for plate in around if _couples(model, trace, plate)}
    factors = tuple(
        Factor(
            name,
            latents=(named[name] | paths[name]) & latents.keys(),
            plates=frozenset(frame.name for frame in vectorized_plates(site)) - coupled,
        )
        for name, site in sites.items()
    )
    return Factors(factors, latents, frozenset(coupled))


def _tracked_parents(model: Model) -> dict[str, frozenset[str]]:
    """The latents that each site depends on, itself included, by Pyro's own account."""
    init = partial(init_to_scattered, radius=1.0, seed=1)
    with apart():
        found = get_dependencies(InitMessenger(init)(model))["prior_dependencies"]
    return {name: frozenset(upstream) for name, upstream in found.items()}


def _parents_by_autograd(model: Model, trace: poutine.Trace) -> dict[str, frozenset[str]]:
    """The latents from which a path of derivatives leads to each site's log-probability."""
    leaves = {
        name: site["value"].detach().clone().requires_grad_()
        for name, site in sample_sites(trace)
        if is_latent(site) and site["value"].is_floating_point()
    }
    with torch.enable_grad():
        totals = {name: p.sum() for name, p in log_probs(run_model(model, leaves, 2)).items()}
    parents = {}
    for name, total in totals.items():
        own = {name} if name in leaves else set()
        if total.requires_grad:
            gradients = torch.autograd.grad(
                total, [*leaves.values()], retain_graph=True, allow_unused=True
            )
            own |= {n for n, g in zip(leaves, gradients, strict=True) if g is not None}
        parents[name] = frozenset(own)
    return parents


@torch.no_grad()
def _couples(model: Model, trace: poutine.Trace, plate: str) -> bool:
    """Says whether latents at some rows of a plate enter log-probabilities at other rows.

    The rows moved are those whose index has bit b, then those whose index lacks it: any two rows
    are told apart by some bit.
    """
    inside = {
        name: (frame.dim, frame.size, site)
        for name, site in sample_sites(trace)
        for frame in vectorized_plates(site)
        if frame.name == plate
    }
    size = next(size for _, size, _ in inside.values())
    held = {name: site["value"] for name, site in sample_sites(trace) if is_latent(site)}
    moved = {
        name: init_to_scattered(site, radius=1.0, seed=3)
        for name, (_, _, site) in inside.items()
        if name in held and site["value"].is_floating_point()
    }
    before = log_probs(run_model(model, held, 2))
    rows = torch.arange(size)
    for bit in range((size - 1).bit_length()):
        for side in (0, 1):
            chosen = (rows >> bit) % 2 == side
            values = dict(held)
            for name, other in moved.items():
                dim, _, site = inside[name]
                where = _along(chosen.to(other.device), dim - site["fn"].event_dim)
                values[name] = torch.where(where, other, held[name])
            after = log_probs(run_model(model, values, 2))
            for name, (dim, _, _) in inside.items():
                if before[name].ndim < -dim or before[name].shape[dim] != size:
                    return True  # the site does not tell its rows apart
                kept = (~chosen).nonzero().squeeze(-1).to(before[name].device)
                if not _same(*(p[name].index_select(dim, kept) for p in (before, after))):
                    return True
    return False


def _same(a: Tensor, b: Tensor) -> bool:
    precision = 100 * torch.finfo(a.dtype).eps
    return torch.allclose(a, b, rtol=precision, atol=precision, equal_nan=True)


def _along(rows: Tensor, dim: int) -> Tensor:
    """Lays a vector along a dimension counted from the right, for broadcasting."""
    return rows.reshape(-1, *(1,) * (-dim - 1))


def _latent(name: str, site: Any) -> Latent:
    batch = site["value"].shape[: site["value"].ndim - site["fn"].event_dim]
    plates = {frame.dim: frame.name for frame in vectorized_plates(site)}
    return Latent(name, batch, plates, site["value"].numel())
