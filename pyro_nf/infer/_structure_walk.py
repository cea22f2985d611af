"""A walk over a model's latents in its own order, for what their priors say of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _DIM_ALLOCATOR
from torch import Tensor

from pyro_nf.infer._latents import LatentSite
from pyro_nf.infer._structure_prior import LocScale, location_scale
from pyro_nf.infer._validation import without_validation

Visit = Callable[[LatentSite, LocScale | None], Tensor]
"""From a site and its prior's location and scale to its unconstrained value, all flat."""


class PriorWalk:
    """Runs of a model up to its last latent, whose values are chosen on the way.

    Nobody sees these runs, which may take place inside of others: of the guide, or of the model
    itself.

    Args:
        model: The model.
        args: Its arguments.
        kwargs: Its keyword arguments.
        sites: Its latents by name.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        sites: Mapping[str, LatentSite],
    ) -> None:
        self.sites = dict(sites)
        self._call: Callable[[], Any] | None = lambda: model(*args, **kwargs)

    def __call__(self, visit: Visit) -> None:
        """Visits each latent once, its parents in the model before it."""
        if self._call is None:
            raise RuntimeError(
                "A guide with model-informed layers was restored without its model. Build the "
                "guide anew, call setup, and load its state_dict."
            )
        with _apart():
            try:
                with _Visitor(self.sites, visit):
                    self._call()
            except _AllVisited:
                pass

    def moments(self, z: Tensor) -> Tensor:
        """Location and log-scale of each dimension's prior at a point ``(D,)``: ``(2, D)``.

        NaN where they are not known.
        """
        found = z.new_full((2, len(z)), torch.nan)

        def visit(site: LatentSite, prior: LocScale | None) -> Tensor:
            place = slice(site.start, site.stop)
            if prior is not None:
                found[:, place] = torch.stack((prior[0], prior[1].log())).to(found)
            return z[place]

        with torch.no_grad():
            self(visit)
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> PriorWalk:
        return self  # a copy of a guide guides the same model

    def __getstate__(self) -> dict[str, Any]:
        return {"sites": self.sites, "_call": None}


class _AllVisited(Exception):  # noqa: N818  (no error: the rest of the model is not needed)
    """The last latent has its value."""


class _Visitor(Messenger):
    def __init__(self, sites: Mapping[str, LatentSite], visit: Visit) -> None:
        super().__init__()
        self.sites, self.visit = sites, visit
        self.waiting = set(sites)

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        site = self.sites.get(msg["name"])
        if site is None:
            return
        prior = location_scale(msg["fn"])
        if prior is not None:
            prior = prior[0].reshape(-1), prior[1].reshape(-1)
        u = self.visit(site, prior)
        msg["value"] = site.transform(u.reshape(site.unconstrained_shape))
        self.waiting.discard(site.name)

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if not self.waiting:
            raise _AllVisited


@contextmanager
def _apart() -> Iterator[None]:
    """Hides a run from what runs around it, whose plates would take the inner ones' places."""
    outer, _DIM_ALLOCATOR._stack = _DIM_ALLOCATOR._stack, []
    try:
        with poutine.block(), without_validation():
            yield
    finally:
        _DIM_ALLOCATOR._stack = outer
