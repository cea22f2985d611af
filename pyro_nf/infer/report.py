"""A report card for guides: whether to trust one, line by line."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from pyro.infer.autoguide import AutoContinuous
from torch import Tensor

from pyro_nf._checks import positive_int
from pyro_nf.infer._annealed import AnnealedResult
from pyro_nf.infer._draws import WeightedDraws, latents_of, weighted_draws
from pyro_nf.infer._log_joint import LogJoint
from pyro_nf.infer._psis import Diagnostics, diagnostics
from pyro_nf.infer._report.base_space import BaseSpace
from pyro_nf.infer._report.card import Line, ReportCard, WeighedRows
from pyro_nf.infer._report.lost_modes import (
    ANNEALED,
    Target,
    check_optima,
    search_by_annealing,
    unsearched,
)
from pyro_nf.infer._report.sites import SiteMoments, site_lines, site_moments
from pyro_nf.infer._report.weights import elbo_line, non_finite_line, weight_lines
from pyro_nf.infer._seeding import seeded
from pyro_nf.infer._validation import without_validation
from pyro_nf.infer.guide_fit import GuideFit

_OWNER = "report"
_SAME_ELBO = 0.1
_BATCHES = 20
_SUBSAMPLED = "the data are subsampled"


def report(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    model_kwargs: Mapping[str, Any] | None = None,
    fit: GuideFit | None = None,
    num_draws: int = 10_000,
    detector: bool = True,
    seed: int = 0,
) -> ReportCard:
    r"""Examines how close a fitted guide q is to a model's posterior p.

    Draws :math:`z_n \sim q` weigh :math:`w_n = p(x, z_n) / q(z_n)`, which are equal where q is the
    posterior. The card has, each with a verdict and a reading in words:

    - *ELBO*: the mean of log w.
    - *log evidence*: the logarithm Z of the mean of w. Its distance from the ELBO is the
      divergence :math:`\mathrm{KL}(q \,\|\, p)`: good up to .05 nats.
    - *k_hat*: shape of the Pareto tail of w. Good below .5, of use for reweighting below .7 (less
      with fewer than 2200 draws); it says nothing where var(log w) < .01.
    - *ESS*: efficiency :math:`(\sum w)^2 / (N \sum w^2)`. Good from .9 on, of use for reweighting
      while 400 of the draws count.
    - *var(log w)*: twice the divergence if that is small: good up to .1.
    - *non-finite weights*: draws at which a density is not finite.
    - *site ...*: by how much Pareto-smoothed reweighting moves the mean, at most over the
      elements and in posterior standard deviations; how it stretches the standard deviation; and
      k̂ of w times the distance from the mean, which the weighted mean hangs on.
    - *restarts*: whether restarts of the fit ended alike, if it had several.
    - *lost modes*: two detectors, for all of the above is blind to a mode that the guide has lost.
      *optima*: the fit's starting points led to optima; one of them fires where log p - log q -
      log Z > 4 and Laplace's approximation sees more than 5 % of Z around it. *annealing*: 1024
      chains start at N(mean, (10 sd)²) of the guide and are annealed to the posterior in 300
      temperatures; it fires where their log evidence is higher by more than .1 nats and by more
      than 3 standard errors (if by .1 only, 4096 chains decide). If they cannot tell or are
      rough, others start so along the guide's principal axes, and then in its base space.

    Cost: ``num_draws`` evaluations of model and guide, and with the detector about 1100
    gradients of the model's log density for 1024 points at once, for rough chains up to three
    times as many.

    Warning:
        A good card is no proof. Lost modes of less than about 20 % of the mass, those more than
        some 20 of the guide's standard deviations away, and modes too narrow for the chains to
        meet stay unseen; the line says what share its precision leaves unseen. k̂ is an estimate
        from the draws at hand: what no draw has met it cannot know. A guide of another kind than
        Pyro's ``AutoContinuous`` has no density of unconstrained latents: its lost modes are not
        looked for.

    Args:
        model: The model.
        guide: A fitted guide of any kind.
        *args: Their arguments.
        model_kwargs: Their keyword arguments.
        fit: What :func:`~pyro_nf.infer.fit_guide` returned, for the lines on restarts and optima
            and the picture of the course.
        num_draws: Draws of the guide; k̂ needs about 10,000.
        detector: Whether to run the annealed chains.
        seed: Seed of all draws; the global generators are left as they were.

    Returns:
        The card: print it, ask for ``card.verdict``, ``card.lost_mode`` or ``card["ESS"]``, draw
        it by ``card.plot()``.

    Raises:
        ValueError: If ``num_draws`` is not positive, model and guide share no latent, or for what
            the guide's set-up refuses.

    References:
        Yes, but Did It Work?: Evaluating Variational Inference (Yao, Vehtari, Simpson, Gelman,
        2018), arXiv 1802.02538.
        Pareto Smoothed Importance Sampling (Vehtari, Simpson, Gelman, Yao, Gabry, 2024),
        arXiv 1507.02646.
        Annealed Importance Sampling (Neal, 1998), arXiv physics/9803008.

    Examples:
        >>> import torch, pyro
        >>> import pyro.distributions as dist
        >>> from pyro_nf import infer
        >>> from pyro_nf.infer.autoguide import AutoFlow
        >>> from pyro_nf.infer.report import report
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> guide = AutoFlow(model)
        >>> fit = infer.fit_guide(model, guide, torch.ones(3))
        >>> card = report(model, guide, torch.ones(3), fit=fit)
        >>> card.verdict, card.lost_mode
        ('good', False)
        >>> card["k_hat"].reading
        'says nothing: the weights hardly vary'
    """
    positive_int(_OWNER, "num_draws", num_draws)
    kwargs = dict(model_kwargs or {})
    with seeded(seed):
        draws, batches = _draws(model, guide, args, kwargs, num_draws)
        if not draws.values:
            raise ValueError(
                f"{_OWNER} found no latent that model and guide share. Pass the guide of this "
                "model."
            )
        with torch.no_grad():
            numbers = diagnostics(draws.log_p, draws.log_q)
            moments = _moments(draws, numbers)
        lines = _weight_lines(draws, numbers, batches)
        lines += _site_lines(draws, numbers, moments)
        if fit is not None and len(fit.restarts) > 1:
            lines.append(_restarts(fit))
        base = None
        if isinstance(guide, AutoContinuous) and draws.unconstrained is not None:
            base = BaseSpace.of_guide(guide, args, kwargs, draws.unconstrained)
            q = guide.get_posterior(*args, **kwargs)
            with without_validation():
                log_joint = LogJoint(model, args, kwargs, latents_of(guide, args, kwargs))
                found = _lost_modes(
                    log_joint, q, draws, base, numbers, fit, detector=detector, seed=seed
                )
        else:
            reason = "the guide has no density of unconstrained latents"
            found = [unsearched(ANNEALED, reason)], None, None
        weighed = _weighed(draws, moments, base)
    modes, lost, annealed = found
    return ReportCard(lines + modes, numbers, lost, annealed, fit, weighed)


def _draws(
    model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], count: int
) -> tuple[WeightedDraws, Tensor]:
    """Draws, and the mean log weight of each mini-batch of a model that subsamples its data."""

    def draw(count: int) -> WeightedDraws:
        with without_validation():  # far out a model may overflow, to weight zero
            return weighted_draws(model, guide, args, kwargs, count)

    first = draw(count)
    if not first.noisy:
        return first, first.log_weights
    # All draws of one call may share a mini-batch, whose error their own spread does not show.
    means = [draw(max(count // _BATCHES, 1)).log_weights.mean() for _ in range(_BATCHES)]
    return first, torch.stack(means)


def _moments(draws: WeightedDraws, numbers: Diagnostics) -> dict[str, SiteMoments]:
    """The moments of each site, unweighted where the weights are random or all zero."""
    log_weights = draws.log_weights
    if draws.noisy or numbers.non_finite == numbers.draws:
        log_weights = torch.zeros_like(log_weights)
    return {name: site_moments(value, log_weights) for name, value in draws.values.items()}


def _weight_lines(draws: WeightedDraws, numbers: Diagnostics, batches: Tensor) -> list[Line]:
    if not draws.noisy:
        return weight_lines(numbers)
    elbo, elbo_se = float(batches.mean()), float(batches.std()) / math.sqrt(len(batches))
    elbo_of_batches = replace(elbo_line(elbo, elbo_se), verdict="unknown")
    unknown = [
        Line(name, "–", "unknown", _SUBSAMPLED)
        for name in ("log evidence", "k_hat", "ESS", "var(log w)")
    ]
    finite = non_finite_line(numbers)
    if not numbers.non_finite:
        finite = replace(finite, verdict="unknown")
    return [elbo_of_batches, *unknown, finite]


def _site_lines(
    draws: WeightedDraws, numbers: Diagnostics, moments: dict[str, SiteMoments]
) -> list[Line]:
    lines = site_lines(moments, numbers.draws, k_hat_matters=numbers.k_hat_matters)
    if not draws.noisy and numbers.non_finite < numbers.draws:
        return lines
    reason = _SUBSAMPLED if draws.noisy else "no draw has a finite weight"
    return [
        line if site.constant else Line(line.name, "–", "unknown", reason)
        for line, site in zip(lines, moments.values(), strict=True)
    ]


def _restarts(fit: GuideFit) -> Line:
    best = max(fit.restarts)
    tolerance = max(_SAME_ELBO, 3 * fit.elbo_se)
    alike = sum(elbo >= best - tolerance for elbo in fit.restarts)
    value = f"ELBO {min(fit.restarts):.3f} to {best:.3f}"
    count = f"{alike} of {len(fit.restarts)}"
    if alike > 1:
        reading = f"{count} restarts ended alike (equal modes would, too)"
        return Line("restarts", value, "good", reading)
    return Line("restarts", value, "unknown", "the best restart stands alone: try more of them")


def _lost_modes(
    log_joint: LogJoint,
    q: Any,
    draws: WeightedDraws,
    base: BaseSpace | None,
    numbers: Diagnostics,
    fit: GuideFit | None,
    *,
    detector: bool,
    seed: int,
) -> tuple[list[Line], bool | None, AnnealedResult | None]:
    """The detectors' lines, whether one of them fired, and the chains."""
    if draws.noisy or numbers.non_finite == numbers.draws:
        reason = _SUBSAMPLED if draws.noisy else "no draw has a finite weight"
        return [unsearched(ANNEALED, reason)], None, None
    assert draws.unconstrained is not None
    lines, fired = [], []
    annealed = None
    target = Target.of(log_joint)
    if fit is not None and fit.optima:
        line, lost = check_optima(target, q, fit.optima, numbers)
        lines.append(line)
        fired.append(lost)
    if not detector:
        lines.append(unsearched(ANNEALED, "detector=False"))
    elif target.points_alone:
        reason = "the model runs point by point only; call annealed_importance_sampling"
        lines.append(unsearched(ANNEALED, reason))
    else:
        line, lost, annealed = search_by_annealing(
            target, draws.unconstrained, base, numbers, seed
        )
        lines.append(line)
        fired.append(lost)
    known = [lost for lost in fired if lost is not None]
    return lines, any(known) if known else None, annealed


def _weighed(
    draws: WeightedDraws, moments: dict[str, SiteMoments], base: BaseSpace | None
) -> WeighedRows:
    """The coordinates of the draws for pictures."""
    names: list[str] = []
    rows: list[Tensor] = []
    for name, value in draws.values.items():
        rows.append(value.reshape(len(value), -1).double())
        elements = itertools.product(*map(range, value.shape[1:]))
        names += [f"{name}{list(index)}" if index else name for index in elements]
    shift = torch.cat([site.shift for site in moments.values()])
    base_draws = None if base is None else base.draws
    return WeighedRows(torch.cat(rows, -1), names, shift, draws.log_weights, base_draws)
