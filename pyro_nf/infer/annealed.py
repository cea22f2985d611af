"""The evidence of a model by annealed importance sampling from a guide or around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoContinuous
from pyro.infer.autoguide.initialization import InitMessenger
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from pyro_nf._checks import positive_float
from pyro_nf.infer._annealed import AnnealedResult, LogDensity
from pyro_nf.infer._annealed import annealed_importance_sampling as anneal
from pyro_nf.infer._draws import latents_of, weighted_draws
from pyro_nf.infer._first_values import init_to_origin
from pyro_nf.infer._latents import LatentSpace
from pyro_nf.infer._log_joint import LogJoint
from pyro_nf.infer._proposals import refuse_noisy
from pyro_nf.infer._seeding import seeded
from pyro_nf.infer._validation import without_validation

_OWNER = "annealed_importance_sampling"
_GUIDE_DRAWS = 2000


def annealed_importance_sampling(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    inflate: float | None = 10.0,
    num_chains: int = 512,
    num_temperatures: int = 300,
    leapfrog_steps: int = 3,
    seed: int = 0,
    model_kwargs: Mapping[str, Any] | None = None,
) -> AnnealedResult:
    r"""Estimates a model's evidence by chains that start around a guide, and can leave it.

    Importance sampling from a guide cannot see a mode that the guide has lost. Chains that start
    at the *inflated* guide, :math:`r = N(m, \mathrm{diag}(c\,s)^2)` with the guide's unconstrained
    means m and standard deviations s, and pass through :math:`r^{1-\beta} p^\beta` from
    :math:`\beta = 0` to 1 by moves of Hamiltonian Monte Carlo can: a log evidence well above the
    one by importance sampling tells of lost mass. Their error is mostly downwards, so a value
    below it tells nothing.

    Cost: at most ``leapfrog_steps * (num_temperatures + 60)`` gradients of the model's density,
    each for all chains at once unless the model can only run point by point.

    Args:
        model: The model.
        guide: A fitted guide that covers the model's continuous latents.
        *args: Their arguments.
        inflate: Factor c on the guide's standard deviations; a mode 16 of them away is found at
            10, not at 3. None starts at the guide itself, which must be an ``AutoContinuous``: the
            smallest error where it has lost nothing, and blind where it has.
        num_chains: Chains; fewer than 512 miss a distant mode at times.
        num_temperatures: Steps from r to the posterior, placed where the weights need them.
        leapfrog_steps: Steps of each Hamiltonian trajectory.
        seed: Seed of all draws; the global generator is left as it was.
        model_kwargs: Keyword arguments of model and guide.

    Returns:
        The log evidence with its standard error, the weighted chains, and their states as
        ``samples`` by site.

    Raises:
        ValueError: If the model subsamples its data, the guide's draws are not finite, or an
            option is out of range.
        TypeError: If ``inflate=None`` comes with a guide without a density of its latents.

    References:
        Annealed Importance Sampling (Neal, 1998), arXiv physics/9803008.

    Examples:
        >>> import torch, pyro
        >>> import pyro.distributions as dist
        >>> from pyro_nf import infer
        >>> from pyro_nf.infer.autoguide import AutoFlow
        >>> def model(y):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(z, 1.0), obs=y)
        >>> y = torch.tensor(0.5)
        >>> guide = AutoFlow(model).setup(y)
        >>> result = infer.annealed_importance_sampling(
        ...     model, guide, y, num_chains=200, num_temperatures=50
        ... )
        >>> exact = dist.Normal(0.0, 2**0.5).log_prob(y).item()
        >>> abs(result.log_evidence - exact) < 0.3, result.samples["z"].shape
        (True, torch.Size([200]))
    """
    kwargs = dict(model_kwargs or {})
    if inflate is not None:
        positive_float(_OWNER, "inflate", inflate)
    elif not isinstance(guide, AutoContinuous):
        raise TypeError(
            f"{_OWNER}(inflate=None) got a guide of type {type(guide).__name__}, whose density of "
            "unconstrained latents is unknown. Pass an AutoContinuous, or inflate=10."
        )
    with seeded(seed):
        space = _latents(model, guide, args, kwargs)
        log_joint = LogJoint(model, args, kwargs, space)
        refuse_noisy(_OWNER, noisy=log_joint.subsampled)
        mean, deviation = _moments(_guide_draws(model, guide, args, kwargs, space))
    start: Distribution
    if inflate is None:
        start = _GuideStart(guide, args, kwargs, space.dtype)
    else:
        start = Independent(Normal(mean, inflate * deviation, validate_args=False), 1)
    result = anneal(
        _wide_density(log_joint),
        start,
        scale=deviation if inflate is None else inflate * deviation,
        num_chains=num_chains,
        num_temperatures=num_temperatures,
        leapfrog_steps=leapfrog_steps,
        seed=seed,
    )
    return replace(result, samples=space.constrain(result.draws.to(space.dtype))[0])


def _latents(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> LatentSpace:
    if isinstance(guide, AutoContinuous):
        return latents_of(guide, args, kwargs)
    with poutine.block(), torch.no_grad():
        trace = poutine.trace(InitMessenger(init_to_origin)(model)).get_trace(*args, **kwargs)
    return LatentSpace(_OWNER, trace)


@torch.no_grad()
def _guide_draws(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    space: LatentSpace,
) -> Tensor:
    """Unconstrained draws of the guide, of shape ``(draws, D)``."""
    if isinstance(guide, AutoContinuous):
        return guide.get_posterior(*args, **kwargs).sample(torch.Size([_GUIDE_DRAWS]))
    with without_validation():
        return space.unconstrain(weighted_draws(model, guide, args, kwargs, _GUIDE_DRAWS).values)


def _moments(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column over the finite rows, in float64."""
    draws = draws.double()
    finite = draws[draws.isfinite().all(-1)]
    if len(finite) < len(draws) / 2:
        raise ValueError(
            f"{_OWNER} drew {len(draws) - len(finite)} of {len(draws)} points from the guide that "
            "are not finite. Refit the guide: its parameters have diverged."
        )
    # A guide that is a point in a dimension still needs a width to start from.
    return finite.mean(0), finite.std(0).clamp(min=1e-6)


def _wide_density(log_joint: LogJoint) -> LogDensity:
    """The log density of float64 rows, computed in float64 if the model can."""
    wide = log_joint.in_float64()
    dtype = log_joint.space.dtype if wide is log_joint else torch.float64
    return lambda z: wide(z.to(dtype)).double()


class _GuideStart(Distribution):
    """A guide's distribution of unconstrained latents, drawn and scored in float64."""

    def __init__(
        self, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], dtype: torch.dtype
    ) -> None:
        self._posterior, self._dtype = guide.get_posterior(*args, **kwargs), dtype
        super().__init__(event_shape=self._posterior.event_shape, validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self._posterior.sample(torch.Size(sample_shape)).double()

    def log_prob(self, value: Tensor) -> Tensor:
        return self._posterior.log_prob(value.to(self._dtype)).double()
