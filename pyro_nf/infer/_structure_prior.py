"""Location and scale of a site's prior in the site's unconstrained space."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

LocScale = tuple[Tensor, Tensor]

_EULER = 0.5772156649015329


def location_scale(distribution: Any) -> LocScale | None:
    r"""Reads off where a prior lies and how wide it is, in unconstrained space.

    On the real line these are the family's location and scale. On the positive reals they are
    mean and standard deviation of the logarithm (of a half-Cauchy, whose mean is infinite, too),
    on the unit interval those of the logit.

    Args:
        distribution: A prior, of any batch and event shape.

    Returns:
        Location and scale of the distribution's shape; None for a family that is not known, and
        for an improper prior.
    """
    shape = distribution.batch_shape + distribution.event_shape
    while type(distribution).__name__ in _WRAPPERS:
        if getattr(distribution, "_mask", None) is False:
            return None
        distribution = distribution.base_dist
    for family in type(distribution).__mro__:
        if family in _FAMILIES:
            loc, scale = _FAMILIES[family](distribution)
            return loc.expand(shape), scale.expand(shape)
    return None


def _own(d: Any) -> LocScale:
    return d.loc, d.scale


def _multivariate(d: Any) -> LocScale:
    return d.loc, d.variance.sqrt()


def _log_normal_half(d: Any) -> LocScale:
    """The logarithm of |N(0, 1)| has mean -(γ + log 2)/2 and standard deviation π/√8."""
    log_scale = d.scale.log()
    return log_scale - (_EULER + math.log(2)) / 2, torch.full_like(log_scale, math.pi / 8**0.5)


def _log_cauchy_half(d: Any) -> LocScale:
    """The logarithm of a standard half-Cauchy has mean 0 and standard deviation π/2."""
    log_scale = d.scale.log()
    return log_scale, torch.full_like(log_scale, math.pi / 2)


def _log_exponential(d: Any) -> LocScale:
    """The logarithm of a standard exponential has mean -γ and standard deviation π/√6."""
    log_rate = d.rate.log()
    return -log_rate - _EULER, torch.full_like(log_rate, math.pi / 6**0.5)


def _log_weibull(d: Any) -> LocScale:
    """A Weibull variable is an exponential one to the power 1/k, scaled."""
    return d.scale.log() - _EULER / d.concentration, math.pi / 6**0.5 / d.concentration


def _log_gamma(d: Any) -> LocScale:
    loc = torch.digamma(d.concentration) - d.rate.log()
    return loc, torch.polygamma(1, d.concentration).sqrt()


def _log_inverse_gamma(d: Any) -> LocScale:
    loc, scale = _log_gamma(d)
    return -loc, scale


def _logit_beta(d: Any) -> LocScale:
    """The logit of a beta variable is the difference of two log-gamma variables."""
    one, zero = d.concentration1, d.concentration0
    variance = torch.polygamma(1, one) + torch.polygamma(1, zero)
    return torch.digamma(one) - torch.digamma(zero), variance.sqrt()


_WRAPPERS = ("Independent", "ExpandedDistribution", "MaskedDistribution")
_FAMILIES: dict[type, Callable[[Any], LocScale]] = {
    td.Normal: _own,
    td.Laplace: _own,
    td.Cauchy: _own,
    td.StudentT: _own,
    td.Gumbel: _own,
    td.LogNormal: _own,
    td.MultivariateNormal: _multivariate,
    td.LowRankMultivariateNormal: _multivariate,
    td.HalfNormal: _log_normal_half,
    td.HalfCauchy: _log_cauchy_half,
    td.Exponential: _log_exponential,
    td.Weibull: _log_weibull,
    td.Gamma: _log_gamma,
    td.InverseGamma: _log_inverse_gamma,
    td.Beta: _logit_beta,
}
