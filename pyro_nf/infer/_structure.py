"""The structure of a posterior: which latent dimensions must know of which."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_nf.infer._latents import LatentSite
from pyro_nf.infer._structure_factors import Factors, StructureError, find_factors
from pyro_nf.infer._structure_graph import Block, ancestors, eliminate, moral_graph


@dataclass(frozen=True)
class Structure:
    r"""A directed acyclic graph over the D unconstrained latent dimensions.

    The posterior is exactly :math:`\prod_i p(z_i | z_{\mathrm{parents}(i)}, x)`.

    Attributes:
        parents: Boolean matrix ``(D, D)``: entry (i, j) says whether j is a parent of i.
        notes: What made the graph denser than the model's plates promise.
    """

    parents: Tensor
    notes: tuple[str, ...] = ()

    @property
    def ancestors(self) -> Tensor:
        """The parents, their parents and so on: what the base of a flow must share."""
        return ancestors(self.parents)

    @property
    def density(self) -> float:
        """The share of the possible dependences, D (D − 1) / 2 of them, that there are."""
        dim = len(self.parents)
        return float(self.parents.sum()) / max(1, dim * (dim - 1) // 2)


def find_structure(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    sites: Mapping[str, LatentSite],
) -> Structure:
    """Reads the structure of the posterior off the model.

    1. Each sample site's log-probability is a factor; its latents are those that Pyro's
       ``get_dependencies`` or autograd finds.
    2. Single dimensions that stand in one factor are joined (the moral graph). A plate keeps its
       rows apart where it lies around both sites and the factor, and where a test of values
       confirms it; entries of one event are all joined.
    3. Dimensions are eliminated from the last to the first, with fill-in, in the model's order but
       those in fewer plates first. Those that a dimension is joined with when its turn comes are
       its parents. Latents that are summed out go before all others.

    Where it fails, each dimension depends on all before it, and one warning says why.

    Cost: a few runs of the model (see ``find_factors``) and O(D³ / 64) bit operations at worst.

    Args:
        model: The model.
        args: Its arguments.
        kwargs: Its keyword arguments.
        sites: The continuous latents by name, with their places in the unconstrained vector.
    """
    try:
        found = find_factors(partial(model, *args, **kwargs))
        missing = sites.keys() - found.latents.keys()
        if missing:
            raise StructureError(f"its latents {', '.join(sorted(missing))} have no density")
        return _structure(found, sites)
    except Exception as error:  # noqa: BLE001  a model may fail in any way on tracked tensors
        warnings.warn(
            "The structure of the posterior could not be read off the model: "
            f"{type(error).__name__}: {error}. Every latent may depend on all before it.",
            stacklevel=2,
        )
        dim = max(site.stop for site in sites.values())
        dense = torch.ones(dim, dim, dtype=torch.bool, device="cpu").tril(-1)
        return Structure(dense, notes=("It could not be read off the model.",))


def _structure(found: Factors, sites: Mapping[str, LatentSite]) -> Structure:
    dim = size = max(site.stop for site in sites.values())
    blocks = {}
    for name, latent in found.latents.items():
        if name in sites:
            site = sites[name]
            blocks[name] = Block(latent, site.start, site.stop - site.start)
        else:  # a latent that is summed out
            blocks[name] = Block(latent, size, latent.numel)
            size += latent.numel
    graph = moral_graph(found.factors, blocks, size)
    by_plates = sorted(sites, key=lambda name: len(found.latents[name].plates))
    order = [*_nodes(sites[name] for name in by_plates), *range(dim, size)]
    return Structure(
        parents=eliminate(graph, order)[:dim, :dim],
        notes=tuple(f"Rows of plate {p!r} depend on each other." for p in sorted(found.coupled)),
    )


def _nodes(sites: Iterable[LatentSite]) -> list[int]:
    return [node for site in sites for node in range(site.start, site.stop)]
