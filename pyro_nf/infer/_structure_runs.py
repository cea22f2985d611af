"""Runs of a model with its latents at chosen values, which nobody sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.infer.inspect import is_sample_site
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_nf.infer._first_values import init_to_scattered
from pyro_nf.infer._validation import without_validation

Model = Callable[[], Any]
"""A model whose arguments are bound."""


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


def run_model(model: Model, values: Mapping[str, Tensor], seed: int) -> poutine.Trace:
    """Traces a run with latents at given values, the others at a point that the seed decides."""
    with apart():
        return poutine.trace(_Given(values, seed)(model)).get_trace()


@contextmanager
def apart() -> Iterator[None]:
    """Runs that nobody sees, of equal randomness, and leave the generators as they were."""
    with poutine.block(), without_validation(), torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def log_probs(trace: poutine.Trace) -> dict[str, Tensor]:
    """The log-probability of each site, over its batch."""
    found = {}
    for name, site in sample_sites(trace):
        log_prob = site["fn"].log_prob(site["value"])
        shape = torch.broadcast_shapes(log_prob.shape, site["fn"].batch_shape)
        found[name] = log_prob.expand(shape)
    return found


def sample_sites(trace: poutine.Trace) -> Iterator[tuple[str, Any]]:
    """The sites that have a density: latents and data, no deterministic sites or subsamples."""
    for name, site in trace.nodes.items():
        if is_sample_site(site):
            yield name, site


def is_latent(site: Any) -> bool:
    """Whether a site is not observed."""
    return not site["is_observed"]


def vectorized_plates(site: Any) -> list[Any]:
    """The frames of the plates around a site that have a dimension of the batch."""
    return [frame for frame in site["cond_indep_stack"] if frame.vectorized]
