"""How reweighting changes the moments of each site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_nf.infer._psis import psis
from pyro_nf.infer._report.card import Line
from pyro_nf.infer._report.weights import most_k_hat

_SMALL_SHIFT = 0.1
_SMALL_STRETCH = 0.1
_ELEMENTS_FOR_K_HAT = 8


@dataclass(frozen=True)
class SiteMoments:
    """Moments of a site's elements, flattened, before and after reweighting.

    Attributes:
        shift: ``|weighted mean - mean|`` in weighted standard deviations; 0 where both vanish.
        stretch: Weighted standard deviation over the raw one; 1 where both vanish.
        k_hat: Largest k̂ of the weights times the distance from the mean, over the elements most
            shifted.
        constant: Whether no element varies at all, so that the guide is a point.
    """

    shift: Tensor
    stretch: Tensor
    k_hat: float
    constant: bool


def site_moments(values: Tensor, log_weights: Tensor) -> SiteMoments:
    """Computes the moments of one site.

    Args:
        values: Shape ``(draws, *site_shape)``.
        log_weights: Raw log weights, ``(draws,)``, one of them finite at least.
    """
    x = values.detach().reshape(len(values), -1).double()
    kept = log_weights.isfinite() & x.isfinite().all(-1)
    x, log_weights = x[kept], log_weights[kept].double()
    smoothed = psis(log_weights)[0].exp()[:, None]  # (draws, 1), sums to one
    mean, weighted_mean = x.mean(0), (smoothed * x).sum(0)
    distance = (x - weighted_mean).abs()  # (draws, elements)
    raw_sd = x.std(0, correction=0)
    weighted_sd = (smoothed * distance.square()).sum(0).sqrt()
    varies = raw_sd > 1e-12 * (1 + mean.abs())
    shift = torch.where(varies, (weighted_mean - mean).abs() / weighted_sd, 0.0)
    stretch = torch.where(varies, weighted_sd / raw_sd, 1.0)
    most = shift.argsort(descending=True)[:_ELEMENTS_FOR_K_HAT].tolist()
    k_hats = [psis(log_weights + distance[:, i].log())[1] for i in most if bool(varies[i])]
    return SiteMoments(
        shift=shift,
        stretch=stretch,
        k_hat=max(k_hats, default=0.0),
        constant=len(x) > 1 and not bool(varies.any()),
    )


def site_lines(
    moments: Mapping[str, SiteMoments], draws: int, *, k_hat_matters: bool
) -> list[Line]:
    """Creates a line for each site."""
    return [_line(name, site, draws, k_hat_matters) for name, site in moments.items()]


def _line(name: str, site: SiteMoments, draws: int, k_hat_matters: bool) -> Line:  # noqa: FBT001
    if site.constant:
        reading = "the guide is a point here: its weights mean nothing"
        return Line(f"site {name}", "sd 0", "do not use", reading)
    shift = float(site.shift.max())
    stretch = float(site.stretch[(site.stretch.log().abs()).argmax()])
    value = f"mean +{shift:.3f} sd, sd ×{stretch:.3f}, k_hat {site.k_hat:.2f}"
    if k_hat_matters and site.k_hat >= most_k_hat(draws):
        reading = "the weighted mean hangs on a few draws"
        return Line(f"site {name}", value, "do not use", reading)
    if shift <= _SMALL_SHIFT and abs(stretch - 1) <= _SMALL_STRETCH:
        return Line(f"site {name}", value, "good", "reweighting hardly changes it")
    reading = "reweighting changes it: take the weighted draws"
    return Line(f"site {name}", value, "usable with reweighting", reading)
