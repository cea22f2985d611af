"""The factors of a model's density: which latents stand together in one log-probability."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.infer.inspect import get_dependencies, is_sample_site
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_nf.infer._first_values import init_to_scattered
from pyro_nf.infer._validation import without_validation

Model = Callable[[], Any]
"""A model whose arguments are bound."""


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
    trace = _run(model, {}, seed=2)
    sites = dict(_sites(trace))
    if named.keys() != sites.keys():
        changing = ", ".join(sorted(named.keys() ^ sites.keys()))
        raise StructureError(f"its sites {changing} come and go with the values of others")
    latents = {name: _latent(name, site) for name, site in sites.items() if _is_latent(site)}
    paths = _parents_by_autograd(model, trace)
    around = {plate for latent in latents.values() for plate in latent.plates.values()}
    coupled = {plate for plate in around if _couples(model, trace, plate)}
    factors = tuple(
        Factor(
            name,
            latents=(named[name] | paths[name]) & latents.keys(),
            plates=frozenset(frame.name for frame in _frames(site)) - coupled,
        )
        for name, site in sites.items()
    )
    return Factors(factors, latents, frozenset(coupled))


def _tracked_parents(model: Model) -> dict[str, frozenset[str]]:
    """The latents that each site depends on, itself included, by Pyro's own account."""
    init = partial(init_to_scattered, radius=1.0, seed=1)
    with _apart():
        found = get_dependencies(InitMessenger(init)(model))["prior_dependencies"]
    return {name: frozenset(upstream) for name, upstream in found.items()}


def _parents_by_autograd(model: Model, trace: poutine.Trace) -> dict[str, frozenset[str]]:
    """The latents from which a path of derivatives leads to each site's log-probability."""
    leaves = {
        name: site["value"].detach().clone().requires_grad_()
        for name, site in _sites(trace)
        if _is_latent(site) and site["value"].is_floating_point()
    }
    with torch.enable_grad():
        log_probs = {name: p.sum() for name, p in _log_probs(_run(model, leaves, 2)).items()}
    parents = {}
    for name, log_prob in log_probs.items():
        own = {name} if name in leaves else set()
        if log_prob.requires_grad:
            gradients = torch.autograd.grad(
                log_prob, [*leaves.values()], retain_graph=True, allow_unused=True
            )
            own |= {n for n, g in zip(leaves, gradients, strict=True) if g is not None}
        parents[name] = frozenset(own)
    return parents


def _couples(model: Model, trace: poutine.Trace, plate: str) -> bool:
    """Says whether latents at some rows of a plate enter log-probabilities at other rows.

    The rows moved are those whose index has bit b, then those whose index lacks it: any two rows
    are told apart by some bit.
    """
    inside = {
        name: (frame.dim, frame.size, site)
        for name, site in _sites(trace)
        for frame in _frames(site)
        if frame.name == plate
    }
    size = next(size for _, size, _ in inside.values())
    held = {name: site["value"] for name, site in _sites(trace) if _is_latent(site)}
    moved = {
        name: init_to_scattered(site, radius=1.0, seed=3)
        for name, (_, _, site) in inside.items()
        if name in held and site["value"].is_floating_point()
    }
    before = _log_probs(_run(model, held, 2))
    rows = torch.arange(size)
    for bit in range((size - 1).bit_length()):
        for side in (0, 1):
            chosen = (rows >> bit) % 2 == side
            values = dict(held)
            for name, other in moved.items():
                dim, _, site = inside[name]
                where = _along(chosen.to(other.device), dim - site["fn"].event_dim)
                values[name] = torch.where(where, other, held[name])
            after = _log_probs(_run(model, values, 2))
            for name, (dim, _, _) in inside.items():
                if before[name].ndim < -dim or before[name].shape[dim] != size:
                    return True  # the site does not tell its rows apart
                keep = (~chosen).nonzero().squeeze(-1).to(before[name].device)
                if not _same(
                    before[name].index_select(dim, keep), after[name].index_select(dim, keep)
                ):
                    return True
    return False


def _same(a: Tensor, b: Tensor) -> bool:
    precision = 100 * torch.finfo(a.dtype).eps
    return torch.allclose(a, b, rtol=precision, atol=precision, equal_nan=True)


def _along(rows: Tensor, dim: int) -> Tensor:
    """Lays a vector along a dimension counted from the right, for broadcasting."""
    return rows.reshape(-1, *(1,) * (-dim - 1))


# Runs of the model.


class _Given(Messenger):
    """Sets the values of latents; what it is not given is put at a point of its support."""

    def __init__(self, values: Mapping[str, Tensor], seed: int) -> None:
        super().__init__()
        self.values, self.seed = values, seed

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        if msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]
        else:
            with torch.no_grad():
                msg["value"] = init_to_scattered(msg, radius=1.0, seed=self.seed)


def _run(model: Model, values: Mapping[str, Tensor], seed: int) -> poutine.Trace:
    with _apart():
        return poutine.trace(_Given(values, seed)(model)).get_trace()


@contextmanager
def _apart() -> Iterator[None]:
    """Runs that nobody sees, of equal randomness, and leave the generators as they were."""
    with poutine.block(), without_validation(), torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def _log_probs(trace: poutine.Trace) -> dict[str, Tensor]:
    """The log-probability of each site, over its batch."""
    found = {}
    for name, site in _sites(trace):
        log_prob = site["fn"].log_prob(site["value"])
        found[name] = log_prob.expand(
            torch.broadcast_shapes(log_prob.shape, site["fn"].batch_shape)
        )
    return found


def _sites(trace: poutine.Trace) -> Iterator[tuple[str, Any]]:
    for name, site in trace.nodes.items():
        if is_sample_site(site):
            yield name, site


def _is_latent(site: Any) -> bool:
    return not site["is_observed"]


def _frames(site: Any) -> list[Any]:
    return [frame for frame in site["cond_indep_stack"] if frame.vectorized]


def _latent(name: str, site: Any) -> Latent:
    batch = site["value"].shape[: site["value"].ndim - site["fn"].event_dim]
    plates = {frame.dim: frame.name for frame in _frames(site)}
    return Latent(name, batch, plates, site["value"].numel())
