"""The groups of ArviZ's data, gathered from runs of the model."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_nf.infer._arviz.names import variable_name
from pyro_nf.infer._arviz.runs import ManyRuns
from pyro_nf.infer._arviz.sites import Site, is_improper

_ATTRIBUTION = 5  # warnings point at the caller of to_arviz


@dataclass
class Contents:
    """What the groups are to hold, as tensors.

    Attributes:
        sites: The model's sites.
        posterior: Latents and derived values, ``(n, *site_shape)``.
        log_likelihood: ``(n, *batch_shape)`` for each observed site.
        posterior_predictive: ``(n, *site_shape)``.
        prior: The same, from the prior.
        prior_predictive: The same.
        constants: Tensors among the model's arguments.
    """

    sites: dict[str, Site]
    posterior: dict[str, Tensor]
    log_likelihood: dict[str, Tensor] = field(default_factory=dict)
    posterior_predictive: dict[str, Tensor] = field(default_factory=dict)
    prior: dict[str, Tensor] = field(default_factory=dict)
    prior_predictive: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def gather(
        cls,
        owner: str,
        model: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        draws: dict[str, Tensor],
        *,
        predictive: bool | Sequence[str],
        prior: bool,
        log_likelihood: bool,
        sums_out_discrete: bool,
    ) -> Contents:
        """Runs the model at the draws of its latents, and from its prior.

        Args:
            owner: Who asks, for messages.
            model: The model.
            args: Its arguments.
            kwargs: Its keyword arguments.
            draws: Latents by name, ``(n, *site_shape)``.
            predictive: Whether to draw observed sites, or which.
            prior: Whether to draw from the prior.
            log_likelihood: Whether to score each datum.
            sums_out_discrete: Whether the weights are those of a model whose discrete sites were
                summed out; if not, the guide must cover them.
        """
        count = len(next(iter(draws.values())))
        one = {name: value[0] for name, value in draws.items()}
        sites = ManyRuns(model, args, kwargs).look(one)
        drawn = [name for name, site in sites.items() if site.kind == "drawn"]
        if drawn and not sums_out_discrete:
            raise ValueError(
                f"{owner} got a guide without the model's latent {', '.join(drawn)}, whose "
                "weights would be wrong. Sample it in the guide, too."
            )
        contents = cls(sites, dict(draws), constants=_constants(model, args, kwargs, sites))
        data = [name for name, site in sites.items() if site.kind == "data"]
        if log_likelihood or any(site.kind == "derived" for site in sites.values()):
            runs = ManyRuns(model, args, kwargs, enumerate_discrete=bool(drawn)).run(draws, count)
            contents.posterior.update(
                {name: v for name, v in runs.values.items() if sites[name].kind == "derived"}
            )
            if log_likelihood:
                scores = {name: runs.log_probs[name] for name in data if name in runs.log_probs}
                contents.log_likelihood = scores
                _warn_of_missing(owner, set(data) - set(scores))
        wanted = None if predictive is True else predictive or ()
        redrawn = _redrawn(owner, wanted, data, sites)
        if redrawn:
            runs = ManyRuns(model, args, kwargs, redraw=redrawn).run(draws, count)
            contents.posterior_predictive = {name: runs.values[name] for name in redrawn}
        if prior and not _warn_of_improper(owner, sites, data):
            runs = ManyRuns(model, args, kwargs, redraw=data).run({}, count)
            contents.prior_predictive = {name: runs.values[name] for name in data}
            contents.prior = {n: runs.values[n] for n in contents.posterior if n in runs.values}
        return contents


def groups_of(
    contents: Contents, stats: Mapping[str, Tensor], chains: int
) -> dict[str, dict[str, np.ndarray]]:
    """Creates the groups' arrays, those of draws with chain and draw leading.

    Args:
        contents: What the model said.
        stats: A number of each draw, ``(n,)``, by name.
        chains: Number of chains of the posterior; the prior's draws are one.
    """
    data = {n: s.value.expand(s.shape) for n, s in contents.sites.items() if s.kind == "data"}
    groups = {
        "posterior": _chained(contents.posterior, chains),
        "sample_stats": _chained(stats, chains),
        "log_likelihood": _chained(contents.log_likelihood, chains),
        "posterior_predictive": _chained(contents.posterior_predictive, chains),
        "prior": _chained(contents.prior, 1),
        "prior_predictive": _chained(contents.prior_predictive, 1),
        "observed_data": {variable_name(name): _array(value) for name, value in data.items()},
        "constant_data": {name: _array(value) for name, value in contents.constants.items()},
    }
    return {name: variables for name, variables in groups.items() if variables}


def _chained(values: Mapping[str, Tensor], chains: int) -> dict[str, np.ndarray]:
    return {
        variable_name(name): _array(value.reshape(chains, len(value) // chains, *value.shape[1:]))
        for name, value in values.items()
    }


def _array(value: Tensor) -> np.ndarray:
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy().copy()


def _constants(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], sites: Mapping[str, Site]
) -> dict[str, Tensor]:
    """Tensors among the arguments by the parameters' names, without those that are observed."""
    function = model.forward if isinstance(model, nn.Module) else model
    try:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return {}
    observed = [site.value for site in sites.values() if site.kind == "data"]
    return {
        name: value
        for name, value in given.items()
        if isinstance(value, Tensor)
        and name not in sites
        and not any(value is data or _equal(value, data) for data in observed)
    }


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _redrawn(
    owner: str, wanted: Sequence[str] | None, data: list[str], sites: Mapping[str, Site]
) -> list[str]:
    """The observed sites to draw; all that can be if none are named."""
    if wanted is None:
        able = [name for name in data if not is_improper(sites[name])]
        if able != data:
            warnings.warn(
                f"{owner} left {', '.join(sorted(set(data) - set(able)))} out of the posterior "
                "predictive draws: the distribution cannot be drawn from.",
                stacklevel=_ATTRIBUTION,
            )
        return able
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if name not in data or is_improper(sites[name]):
            raise ValueError(
                f"{owner} got predictive={names}, and {name!r} is no observed site that can be "
                f"drawn. Pass some of {', '.join(data) or 'none: the model observes nothing'}."
            )
    return names


def _warn_of_missing(owner: str, names: set[str]) -> None:
    if names:
        warnings.warn(
            f"{owner} left {', '.join(sorted(names))} out of the log likelihood: discrete sites "
            "that several data share leave no density of each datum alone.",
            stacklevel=_ATTRIBUTION,
        )


def _warn_of_improper(owner: str, sites: Mapping[str, Site], data: list[str]) -> bool:
    latents = [name for name, site in sites.items() if site.kind in ("latent", "drawn")]
    bad = [name for name in [*latents, *data] if is_improper(sites[name])]
    if bad:
        warnings.warn(
            f"{owner} left the prior out: {', '.join(bad)} cannot be drawn, being improper or "
            "without a way to sample.",
            stacklevel=_ATTRIBUTION,
        )
    return bool(bad)
