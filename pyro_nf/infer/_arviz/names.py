"""Names of variables and dimensions for ArviZ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pyro_nf.infer._arviz.sites import Site

_TAKEN = ("chain", "draw", "sample")


def variable_name(site: str) -> str:
    """A site's name, without the slashes that part the groups of a file."""
    return site.replace("/", ".")


def dimension_names(sites: Iterable[Site]) -> dict[str, list[str]]:
    """Names of the dimensions of each variable: its plates, and numbers within the event.

    A plate that is called like a dimension of ArviZ's own gives one with "_plate" behind its name.
    One that has several sizes is not named.

    Args:
        sites: The sites that become variables.
    """
    sites = list(sites)
    plates = {plate for site in sites for plate in site.plates.values()}
    several = {name for name, count in Counter(p.name for p in plates).items() if count > 1}
    names = {}
    for site in sites:
        variable = variable_name(site.name)
        dims = [f"{variable}_dim_{i}" for i in range(len(site.shape))]
        batch = len(site.shape) - site.event_dim
        for dim, plate in site.plates.items():
            has_it = -dim <= batch and site.shape[batch + dim] == plate.size
            if has_it and plate.name not in several:
                name = variable_name(plate.name)
                dims[batch + dim] = f"{name}_plate" if name in _TAKEN else name
        names[variable] = dims
    return names
