"""A fitted guide's draws as ArviZ's data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_nf._checks import choice, positive_int
from pyro_nf.infer._arviz.attributes import attributes
from pyro_nf.infer._arviz.groups import Contents, groups_of
from pyro_nf.infer._arviz.names import dimension_names
from pyro_nf.infer._arviz.package import pack
from pyro_nf.infer._proposals import proposals
from pyro_nf.infer._psis import Diagnostics, diagnostics, psis
from pyro_nf.infer._seeding import seeded
from pyro_nf.infer.guide_fit import GuideFit
from pyro_nf.infer.importance import _resample

_OWNER = "to_arviz"
_FEWEST_DRAWS = 10_000  # k̂ needs about as many


def to_arviz(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    model_kwargs: Mapping[str, Any] | None = None,
    num_samples: int = 4000,
    num_chains: int = 4,
    weights: Literal["psis", "raw"] = "psis",
    num_draws: int | None = None,
    predictive: bool | Sequence[str] = True,
    prior: bool = False,
    log_likelihood: bool = True,
    seed: int = 0,
    fit: GuideFit | None = None,
) -> Any:
    r"""Converts a model and its fitted guide to ArviZ's data, to summarise, plot and compare.

    With ``weights="psis"`` the draws :math:`\theta_n` of the guide are resampled by their weights
    :math:`w_n = p(x, \theta_n) / q(\theta_n)`, Pareto-smoothed (systematic resampling, with
    replacement). They are dealt out in random order to pseudo-chains, so that chains and positions
    are exchangeable; ``r_hat`` near 1 and an effective sample size near ``num_samples`` then say
    nothing of the fit: the attributes ``k_hat`` and ``ess`` do. With ``weights="raw"`` they are
    the guide's own draws, whose weights are left to the reader.

    The groups, with dimensions named after plates:

    - ``posterior``: latents, and what the model derives by ``pyro.deterministic`` (except from
      discrete sites that are summed out).
    - ``sample_stats``: ``log_p`` (data and latents), ``log_q`` (guide) and ``log_weight``, their
      difference, of each draw. With ``weights="psis"`` it is spent: do not weigh these draws
      again.
    - ``log_likelihood``: the log density of each datum, for :func:`arviz.loo` or, of raw draws,
      :func:`~pyro_nf.infer.loo_approximate_posterior`. Discrete sites are summed out; an observed
      site that shares them between data has no pointwise density and is left out with a warning.
      Scales of plates do not enter; a datum that is masked scores 0.
    - ``posterior_predictive``: draws of the observed sites. Discrete sites are drawn anew.
    - ``prior``, ``prior_predictive``: if asked for, one chain. Factors do not enter.
    - ``observed_data``, and ``constant_data``: the other tensors among the model's arguments.

    Attributes at the root and at the posterior: ``k_hat``, ``elbo``, ``elbo_se``,
    ``log_evidence``, ``log_evidence_se``, ``ess`` (a share of ``num_draws``), ``var_log_w``,
    ``num_draws``, ``refused_draws``, ``weights``, ``seed``, ``guide`` and the versions.

    Cost: ``num_draws`` runs of model and guide and two times ``num_samples`` runs of the model,
    all at once under a plate or a map where a test of values allows it.

    Args:
        model: The model.
        guide: A fitted guide of any kind.
        *args: Their arguments.
        model_kwargs: Their keyword arguments.
        num_samples: Samples to return, over all chains.
        num_chains: Pseudo-chains to deal them out to.
        weights: Whether the samples are resampled by weight or the guide's own draws.
        num_draws: Draws from the guide, for the weights and their diagnostics; None for 10,000, or
            ``num_samples`` if that is more.
        predictive: Whether to draw data from the posterior, or the observed sites to draw; the
            others then keep their data.
        prior: Whether to draw latents and data from the prior.
        log_likelihood: Whether to score each datum.
        seed: Seed of all draws; the global generators are left as they were.
        fit: What ``fit_guide`` returned, whose course is written to the attributes.

    Returns:
        An ``arviz.InferenceData``; from ArviZ 1 on an ``xarray.DataTree``.

    Raises:
        ValueError: If an option does not fit, the model subsamples its data, a latent is in the
            model and not in the guide, or too few draws have a finite weight.

    Warns:
        UserWarning: If k̂ is .7 or more (and the weights differ enough for that to matter), if
            draws have no finite weight (they are left out), or if a group cannot be made: an
            improper prior, an observed site that cannot be drawn or has no pointwise density.

    References:
        Pareto Smoothed Importance Sampling (Vehtari, Simpson, Gelman, Yao, Gabry, 2024),
        arXiv 1507.02646.

    Examples:
        >>> import torch, pyro
        >>> import pyro.distributions as dist
        >>> from pyro_nf import infer
        >>> from pyro_nf.infer.autoguide import AutoFlow
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> y = torch.ones(3)
        >>> guide = AutoFlow(model, init_scale=1.0).setup(y)
        >>> data = infer.to_arviz(model, guide, y)
        >>> data.posterior["mean"].dims, data.log_likelihood["y"].dims
        (('chain', 'draw'), ('chain', 'draw', 'data'))
        >>> round(float(data.posterior["mean"].mean()), 1)  # 3 / (1 + 3)
        0.7...
    """
    num_draws = _check(num_samples, num_chains, weights, num_draws, guide, fit)
    kwargs = dict(model_kwargs or {})
    with seeded(seed):  # draws of the guide and of the model must not share their random numbers
        first, second, third = torch.randint(2**31, (3,)).tolist()
    draws = proposals(_OWNER, model, guide, args, kwargs, num_draws, first)
    numbers = diagnostics(draws.log_p, draws.log_q)
    _warn(numbers)
    with seeded(second):
        chosen = _choose(draws.log_weights, weights, num_samples)
    with seeded(third):
        contents = Contents.gather(
            _OWNER,
            model,
            args,
            kwargs,
            {name: value[chosen] for name, value in draws.values.items()},
            predictive=predictive,
            prior=prior,
            log_likelihood=log_likelihood,
            sums_out_discrete=draws.unconstrained is not None,
        )
    stats = {"log_p": draws.log_p[chosen], "log_q": draws.log_q[chosen]}
    stats["log_weight"] = draws.log_weights[chosen]
    return pack(
        groups_of(contents, stats, num_chains),
        dimension_names(contents.sites.values()),
        attributes(numbers, guide, weights, seed, fit),
    )


def _choose(log_weights: Tensor, weights: str, count: int) -> Tensor:
    """Indices of the draws to return; none whose weight is not finite."""
    finite = log_weights.isfinite()
    if weights == "psis":
        if not bool(finite.any()):
            raise ValueError(
                f"{_OWNER} got {len(finite)} draws of which none has a finite weight: the model "
                "has zero density wherever the guide draws. Refit the guide, or check the "
                "supports."
            )
        return _resample(psis(log_weights)[0], count)
    kept = finite.nonzero().squeeze(1)
    if len(kept) < count:
        raise ValueError(
            f"{_OWNER} got {len(kept)} draws with finite weights out of {len(finite)}, and "
            f"num_samples={count}. Pass a larger num_draws, or refit the guide."
        )
    return kept[:count]


def _warn(numbers: Diagnostics) -> None:
    if 0 < numbers.non_finite < numbers.draws:
        warnings.warn(
            f"{_OWNER}: {numbers.non_finite} of {numbers.draws} draws have no finite weight and "
            "are left out; the guide reaches where the model has no density.",
            stacklevel=3,
        )
    if not numbers.is_good and numbers.non_finite < numbers.draws:
        warnings.warn(
            f"{_OWNER}: k_hat is {numbers.k_hat:.2f}, and from .7 on weights cannot be trusted. "
            "Improve the guide: more steps, a larger flow, or another warm start.",
            stacklevel=3,
        )


def _check(
    num_samples: Any, num_chains: Any, weights: Any, num_draws: Any, guide: Any, fit: Any
) -> int:
    positive_int(_OWNER, "num_samples", num_samples)
    positive_int(_OWNER, "num_chains", num_chains)
    choice(_OWNER, "weights", weights, ("psis", "raw"))
    if num_samples % num_chains:
        raise ValueError(
            f"{_OWNER} got num_samples={num_samples} for num_chains={num_chains}. Pass a multiple "
            "of the number of chains."
        )
    if num_draws is None:
        num_draws = max(_FEWEST_DRAWS, num_samples)
    if positive_int(_OWNER, "num_draws", num_draws) < num_samples:
        raise ValueError(
            f"{_OWNER} got num_draws={num_draws} for num_samples={num_samples}. Pass at least as "
            "many draws as samples."
        )
    if fit is not None and not isinstance(fit, GuideFit):
        raise TypeError(
            f"{_OWNER} got a fit of type {type(fit).__name__}. Pass what fit_guide returned."
        )
    if fit is not None and fit.guide is not guide:
        raise ValueError(f"{_OWNER} got the fit of another guide. Pass that of this one.")
    return num_draws
