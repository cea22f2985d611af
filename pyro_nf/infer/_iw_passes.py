"""Runs of a guide and its model whose draws' gradients are to be weighed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from pyro.util import check_if_enumerated, check_model_guide_match, check_site_shape
from torch import Tensor, nn

from pyro_nf.infer._iw_weights import LogWeights, log_weights
from pyro_nf.infer._log_joint import unconstrained_parameter
from pyro_nf.infer._path_gradient import PathGradientDistribution

_OWNER = "IWELBO"

# A run of the guide, and which of its sites are to be scored there.
_Part = tuple[poutine.Trace, Callable[[str], bool]]


class Weighing:
    """Multiplies gradients that reach draws by weights that are known once all are scored.

    Attributes:
        weights: Normalised weights ``(runs, *dims)``, the dimensions aligned right with those of
            the draws' batches.
    """

    weights: Tensor

    def copy(self, value: Tensor, run: int, event_dim: int) -> Tensor:
        """Creates a copy of a draw whose gradient is multiplied on its way to the draw."""
        copy = value.clone()
        if copy.requires_grad:
            copy.register_hook(lambda gradient: self._weigh(gradient, run, event_dim))
        return copy

    def _weigh(self, gradient: Tensor, run: int, event_dim: int) -> Tensor:
        weights = self.weights[run]
        surplus = weights.ndim - (gradient.ndim - event_dim)  # of size 1, where there are any
        return gradient * weights.reshape(weights.shape[max(0, surplus) :] + (1,) * event_dim)


class Runner:
    """A model and a guide, with their arguments.

    Args:
        model: The model.
        guide: The guide.
        args: Their arguments.
        kwargs: Their keyword arguments.
        nesting: How deep plates may nest, for checks.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        nesting: float,
    ) -> None:
        self._model, self._guide = model, guide
        self._args, self._kwargs, self._nesting = args, kwargs, nesting

    def plain(self, *, gradient: bool) -> LogWeights:
        """Runs once; the log weights have the plain gradient.

        Args:
            gradient: Whether the gradient will be taken.
        """
        guide = self._trace(self._guide)
        if gradient:
            _refuse_path_gradient(guide)
        return self._scored(guide, [(guide, _all)])

    def doubly_reparameterized(self, weighing: Weighing, run: int, *, check: bool) -> LogWeights:
        """Runs once; the gradient reaches the guide's parameters by the draws alone, weighed.

        The guide runs again on copies of its draws, its parameters constant: a gradient of
        log q then has no other way than through the draws, those that other draws depend on
        included. What is deterministic in the guide is no draw: its parameters are like those of
        the model.

        Args:
            weighing: Weighs the gradient.
            run: Which of its weights are this run's.
            check: Whether to check that the guide scores its draws as it did when it drew them.
        """
        drawn = self._trace(self._guide)
        replayed, deterministic = drawn.copy(), []
        for name, site in list(drawn.nodes.items()):
            if site["type"] != "sample" or site["is_observed"] or site_is_subsample(site):
                continue
            if _holds(site["fn"], dist.Delta):
                deterministic.append(name)
                del replayed.nodes[name]
            else:
                copy = weighing.copy(site["value"], run, site["fn"].event_dim)
                replayed.nodes[name] = {**site, "value": copy}
        is_deterministic = set(deterministic).__contains__
        parts: list[_Part] = []
        if deterministic:
            replayed = self._trace(poutine.replay(self._guide, trace=replayed))
            parts.append((replayed, is_deterministic))
        with _constant(_parameters(drawn, self._guide)):
            scoring = self._trace(poutine.replay(self._guide, trace=replayed))
            parts.append((scoring, lambda name: not is_deterministic(name)))
            scoring.compute_log_prob(lambda name, site: _counts(name, site, parts[-1][1]))
        if check:
            _check_again(drawn, parts)
        return self._scored(replayed, parts)

    def _trace(self, fn: Callable[..., Any]) -> poutine.Trace:
        return poutine.trace(fn).get_trace(*self._args, **self._kwargs)

    def _scored(self, drawn: poutine.Trace, parts: list[_Part]) -> LogWeights:
        """Runs the model on the guide's draws, and weighs them."""
        model = self._trace(poutine.replay(self._model, trace=drawn))
        _check_latents(model, drawn)
        if is_validation_enabled():
            check_if_enumerated(drawn)
            check_model_guide_match(model, drawn, self._nesting)
        model = prune_subsample_sites(model)
        model.compute_log_prob()
        model_sites = [s for s in model.nodes.values() if s["type"] == "sample"]
        guide_sites = []
        for trace, belongs in parts:
            trace.compute_log_prob(lambda name, site, b=belongs: _counts(name, site, b))
            guide_sites += [s for n, s in trace.nodes.items() if _counts(n, s, belongs)]
        if is_validation_enabled():
            for site in [*model_sites, *guide_sites]:
                check_site_shape(site, self._nesting)
        return log_weights(_OWNER, model_sites, guide_sites)


def _all(name: str) -> bool:
    return True


def _counts(name: str, site: Any, belongs: Callable[[str], bool]) -> bool:
    return site["type"] == "sample" and not site_is_subsample(site) and belongs(name)


def _holds(fn: Any, kind: type) -> bool:
    """Whether a distribution is of a kind, perhaps expanded or masked."""
    while fn is not None:
        if isinstance(fn, kind):
            return True
        fn = getattr(fn, "base_dist", None)
    return False


def _parameters(trace: poutine.Trace, guide: Any) -> list[Tensor]:
    """The trained leaves of a guide: of its parameter statements, and of itself as a module."""
    named = [
        unconstrained_parameter(site["value"])
        for site in trace.nodes.values()
        if site["type"] == "param" and site["value"] is not None
    ]
    own = list(guide.parameters()) if isinstance(guide, nn.Module) else []
    return [p for p in {id(p): p for p in [*named, *own]}.values() if p.requires_grad]


@contextmanager
def _constant(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Makes leaves constants for a block."""
    parameters = list(parameters)
    for parameter in parameters:
        parameter.requires_grad = False
    try:
        with warnings.catch_warnings():  # of pyro.module, which passes over constants
            warnings.filterwarnings("ignore", message=".*was not registered in the param store")
            yield
    finally:
        for parameter in parameters:
            parameter.requires_grad = True


def _check_latents(model: poutine.Trace, guide: poutine.Trace) -> None:
    for name, site in guide.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site) or site["fn"].has_rsample:
            continue
        raise ValueError(
            f"{_OWNER} got the guide's site {name!r} ({type(site['fn']).__name__}), whose draws "
            "carry no gradient. Use a reparameterised distribution, or Trace_ELBO; a discrete "
            "site can be summed out by TraceEnum_ELBO."
        )
    missing = [
        name
        for name, site in model.nodes.items()
        if site["type"] == "sample"
        and not site["is_observed"]
        and not site_is_subsample(site)
        and name not in guide
    ]
    if missing:
        raise ValueError(
            f"{_OWNER} got a guide without the model's latent {', '.join(missing)}, whose weights "
            "would be wrong. Sample it in the guide, too, or sum it out by TraceEnum_ELBO if it "
            "is discrete."
        )


def _refuse_path_gradient(guide: poutine.Trace) -> None:
    for name, site in guide.nodes.items():
        if site["type"] == "sample" and _holds(site["fn"], PathGradientDistribution):
            raise ValueError(
                f"{_OWNER} got gradient='standard' and a guide that takes path gradients (site "
                f"{name!r}), which are biased under weights. Leave out the option, or build the "
                "guide with path_gradient=False."
            )


@torch.no_grad()
def _check_again(drawn: poutine.Trace, parts: list[_Part]) -> None:
    """Raises where a guide scores its draws otherwise than when it drew them."""
    for trace, belongs in parts:
        for name, site in trace.nodes.items():
            if not _counts(name, site, belongs):
                continue
            before = drawn.nodes[name]
            then = before["fn"].log_prob(before["value"])
            now = site["fn"].log_prob(site["value"])
            if then.shape != now.shape or not torch.allclose(
                then, now, rtol=1e-2, atol=1e-2, equal_nan=True
            ):
                raise ValueError(
                    f"{_OWNER} got a guide that scored its draw of {name!r} otherwise when it ran "
                    "again: it draws random numbers outside of sample statements, as dropout "
                    "does, or changes with each run. Put it into eval mode, or use "
                    "gradient='standard'."
                )
