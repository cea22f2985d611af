"""Draws of a guide with the log densities that weigh them, for guides of any kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoContinuous
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_nf.infer._latents import LatentSpace
from pyro_nf.infer._log_joint import LogJoint, row_log_probs, unconstrained_parameter
from pyro_nf.infer._recipe.recipe import score_draws
from pyro_nf.infer.autoguide.flow import AutoFlow

_PLATE = "_pyro_nf_draws"
_TEST_DRAWS = 7


@dataclass
class WeightedDraws:
    """Draws of a guide and their log densities.

    Attributes:
        values: Values of the model's latents by name, ``(draws, *site_shape)``.
        log_p: Log density of data and latents, ``(draws,)``, in nats.
        log_q: Log density of the guide, ``(draws,)``.
        unconstrained: Unconstrained latents ``(draws, D)`` of an ``AutoContinuous``, where both
            densities are those of unconstrained latents; else None.
        noisy: Whether plates showed random parts of the data.
    """

    values: dict[str, Tensor]
    log_p: Tensor
    log_q: Tensor
    unconstrained: Tensor | None = None
    noisy: bool = False

    @property
    def log_weights(self) -> Tensor:
        """Log importance weights, ``(draws,)``."""
        return self.log_p - self.log_q


@torch.no_grad()
def weighted_draws(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    num_draws: int,
) -> WeightedDraws:
    """Draws from a guide and scores the draws by model and guide.

    Args:
        model: The model.
        guide: The guide.
        args: Their arguments.
        kwargs: Their keyword arguments.
        num_draws: Number of draws.
    """
    if isinstance(guide, AutoContinuous):
        space = latents_of(guide, args, kwargs)
        log_joint = LogJoint(model, args, kwargs, space)
        q = guide.get_posterior(*args, **kwargs)
        z, log_p, log_q = score_draws(q, log_joint, num_draws)
        return WeightedDraws(space.constrain(z)[0], log_p, log_q, z, log_joint.subsampled)
    return Pair(model, guide, args, kwargs).draw(num_draws)


def latents_of(
    guide: AutoContinuous, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> LatentSpace:
    """The latents of an ``AutoContinuous``, which is set up if it was not."""
    if isinstance(guide, AutoFlow):
        return guide.setup(*args, **kwargs).latents
    if guide.prototype_trace is None:
        guide(*args, **kwargs)
    return LatentSpace(type(guide).__name__, guide.prototype_trace)


class Pair:
    """A model and a guide of any kind, run together on many draws.

    A test of values at set-up decides whether both run once under a plate of draws or once for
    each draw.

    Args:
        model: The model.
        guide: The guide.
        args: Their arguments.
        kwargs: Their keyword arguments.

    Attributes:
        particles: How the draws run.
        nesting: How deep the plates of both nest.
        parameters: The parameters of both, unconstrained.
        noisy: Whether plates show random parts of the data.
        is_point: Whether the guide is a point, so that all weights are equal and say nothing.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        self._model, self._guide, self._args, self._kwargs = model, guide, args, dict(kwargs)
        with poutine.block():
            guide_trace, model_trace = self._traces()
        self.parameters: list[Tensor] = []
        self.nesting, self.noisy = 0, False
        self._ndims: dict[str, int] = {}
        self._deltas: set[str] = set()
        for trace in (guide_trace, model_trace):
            for name, site in trace.nodes.items():
                if site["type"] == "param" and site["value"] is not None:
                    leaf = unconstrained_parameter(site["value"])
                    if not any(leaf is known for known in self.parameters):
                        self.parameters.append(leaf)
                if site["type"] == "sample":
                    self._note(name, site)
        _check_covered(guide_trace, model_trace)
        self.is_point = _is_point(guide_trace)
        self._latents = [
            name
            for name, site in guide_trace.nodes.items()
            if site["type"] == "sample" and name in model_trace and not site_is_subsample(site)
        ]
        self.particles: Literal["plate", "loop"] = "plate" if self._plate_is_right() else "loop"

    def _note(self, name: str, site: dict[str, Any]) -> None:
        frames = [f for f in site["cond_indep_stack"] if f.vectorized]
        self.nesting = max([self.nesting, *(-f.dim for f in frames)])
        if site_is_subsample(site):
            self.noisy = self.noisy or len(site["value"]) != site["fn"].size
        else:
            self.nesting = max(self.nesting, len(site["fn"].batch_shape))
            self._ndims[name] = site["value"].ndim
            if isinstance(site["fn"], dist.Delta):
                self._deltas.add(name)

    def draw(self, num_draws: int) -> WeightedDraws:
        """Draws and scores."""
        if self.particles == "plate":
            values, model_terms, guide_terms = self._under_plate(num_draws)
            latents = {name: values[name] for name in self._latents}
            # A guide may have no site.
            log_p, log_q = (
                sum(terms.values(), torch.zeros(())).expand(num_draws)
                for terms in (model_terms, guide_terms)
            )
            return WeightedDraws(latents, log_p, log_q, noisy=self.noisy)
        rows: list[tuple[dict[str, Tensor], Tensor, Tensor]] = []
        for _ in range(num_draws):
            guide_trace, model_trace = self._traces()
            values = {name: guide_trace.nodes[name]["value"] for name in self._latents}
            rows.append((values, _log_p(model_trace), guide_trace.log_prob_sum()))
        log_p, log_q = (torch.stack([torch.as_tensor(row[i]) for row in rows]) for i in (1, 2))
        latents = {name: torch.stack([row[0][name] for row in rows]) for name in self._latents}
        return WeightedDraws(latents, log_p, log_q, noisy=self.noisy)

    def _traces(self, values: Mapping[str, Tensor] | None = None) -> tuple[Any, Any]:
        guide, model = self._guide, self._model
        if values is not None:
            guide = poutine.condition(guide, data=dict(values))
        guide_trace = poutine.trace(guide).get_trace(*self._args, **self._kwargs)
        if values is None:
            model = poutine.replay(model, trace=guide_trace)
        else:  # conditioned sites are observed, which replay refuses
            seen = {n: s["value"] for n, s in guide_trace.nodes.items() if s["type"] == "sample"}
            model = poutine.condition(model, data=seen)
        return guide_trace, poutine.trace(model).get_trace(*self._args, **self._kwargs)

    def _under_plate(
        self, n: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Values of the guide's sites, log densities of the model's and of the guide's sites."""
        with pyro.plate(_PLATE, n, dim=-1 - self.nesting):
            guide_trace, model_trace = self._traces()
        values = {}
        for name, site in guide_trace.nodes.items():
            if site["type"] != "sample" or name == _PLATE:
                continue
            value = site["value"]
            if site_is_subsample(site):
                values[name] = value
                continue
            # Without the dimensions that fill up to the depth of the plates.
            shape = value.shape[value.ndim - self._ndims[name] :]
            values[name] = value.reshape(n, *shape)
        model_terms = row_log_probs(model_trace, n, self.nesting)
        for name, term in model_terms.items():
            model_terms[name] = term.masked_fill(~_inside(model_trace.nodes[name], n), -math.inf)
        return values, model_terms, row_log_probs(guide_trace, n, self.nesting)

    @torch.no_grad()
    def _plate_is_right(self) -> bool:
        """Whether a few draws under a plate have the densities that each has alone."""
        try:
            with poutine.block():
                values, model_terms, guide_terms = self._under_plate(_TEST_DRAWS)
                for i in range(_TEST_DRAWS):
                    # A Delta recomputes its value, which may differ in the last bit.
                    one = {
                        name: v[i] if name in self._ndims else v
                        for name, v in values.items()
                        if name not in self._deltas
                    }
                    guide_trace, model_trace = self._traces(one)
                    for trace, many in ((model_trace, model_terms), (guide_trace, guide_terms)):
                        alone = _site_log_probs(trace, within_support=trace is model_trace)
                        # Site by site: in the total of much data a wrong prior is a trifle.
                        if alone.keys() != many.keys() or not all(
                            torch.allclose(
                                many[n][i], alone[n], rtol=1e-4, atol=1e-5, equal_nan=True
                            )
                            for n in alone
                        ):
                            return False
        except Exception:  # noqa: BLE001  models and guides fail under a plate in any way
            return False
        return True


def _log_p(trace: Any) -> Tensor:
    """The log density of one run of the model, minus infinity outside of a latent's support."""
    return sum(_site_log_probs(trace, within_support=True).values(), torch.zeros(()))


def _site_log_probs(trace: Any, *, within_support: bool) -> dict[str, Tensor]:
    """The log density of each site of one run."""
    trace.compute_log_prob()
    log_probs = {}
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        log_probs[name] = site["log_prob"].sum()
        if within_support:
            log_probs[name] = log_probs[name].masked_fill(~_inside(site, 1)[0], -math.inf)
    return log_probs


def _inside(site: Any, n: int) -> Tensor:
    """Which of n draws of a latent lie in its support: outside, densities may be finite."""
    if site["is_observed"]:
        return torch.ones(n, dtype=torch.bool, device=site["log_prob"].device)
    return site["fn"].support.check(site["value"]).reshape(n, -1).all(-1)


def _is_point(guide_trace: Any) -> bool:
    """Whether a guide draws the same values each time."""
    sites = [
        site
        for site in guide_trace.nodes.values()
        if site["type"] == "sample" and not site_is_subsample(site)
    ]
    # What an autoguide derives from its auxiliary draw is a Delta, too.
    drawn = [site for site in sites if site["infer"].get("is_auxiliary")] or sites
    return any(_is_delta(site["fn"]) for site in drawn)


def _is_delta(distribution: Any) -> bool:
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return isinstance(distribution, dist.Delta)


def _check_covered(guide_trace: Any, model_trace: Any) -> None:
    """Raises if the model has a latent that the guide lacks: it would be drawn from its prior."""
    for name, site in model_trace.nodes.items():
        free = site["type"] == "sample" and not site["is_observed"]
        if free and not site_is_subsample(site) and name not in guide_trace:
            raise ValueError(
                f"The model's latent site {name!r} is not covered by the guide, so its draws "
                "would come from the prior. Sample it in the guide, or sum a discrete site out "
                "with an AutoFlow on the model without it."
            )
