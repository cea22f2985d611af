"""The peers' parametrisations of scale and spline, as bijections for our wirings.

Each is our own map behind a change of the raw parameters, so that a peer's whole flow can be
compared with ours on equal weights. Parameters are in our order: shift and raw scale; widths,
heights and slopes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_nf.bijections import DeepSigmoidal, RationalQuadraticSpline, ScalarBijection

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scaled(ScalarBijection):
    """``y = x exp(s(a)) + b`` with a peer's log-scale s; parameters b and a."""

    log_scale: Map

    @property
    def param_count(self) -> int:
        """Shift and raw scale."""
        return 2

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and shifts."""
        log_scale = self.log_scale(params[1])
        return x * log_scale.exp() + params[0], log_scale

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Undoes :meth:`forward`."""
        log_scale = self.log_scale(params[1])
        return (y - params[0]) * torch.exp(-log_scale), -log_scale


@dataclass(frozen=True)
class Translated(ScalarBijection):
    """A bijection of ours whose raw parameters are translated from a peer's.

    Args:
        bijection: The bijection.
        translate: Maps a peer's raw parameters to the bijection's.
        count: How many the peer has; None for as many as the bijection.
    """

    bijection: ScalarBijection
    translate: Map
    count: int | None = None

    @property
    def param_count(self) -> int:
        """Number of the peer's parameters for each element."""
        return self.bijection.param_count if self.count is None else self.count

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps with the translated parameters."""
        return self.bijection.forward(x, self.translate(params))

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Undoes :meth:`forward`."""
        return self.bijection.inverse(y, self.translate(params))


def clamped(raw: Tensor) -> Tensor:
    """Pyro's log-scale."""
    return raw.clamp(-5.0, 3.0)


def softplus_scale(raw: Tensor) -> Tensor:
    """The log-scale of nflows' autoregressive layers."""
    return torch.log(F.softplus(raw) + 1e-3)


def sigmoid_scale(raw: Tensor) -> Tensor:
    """The log-scale of nflows' couplings and normflows' autoregressive layers."""
    return torch.log(torch.sigmoid(raw + 2) + 1e-3)


def softplus_spline(bins: int, bound: float, divisor: float = 1.0) -> ScalarBijection:
    """The spline of nflows and normflows: a raw slope d stands for softplus(d) + 1e-3.

    Args:
        bins: Number of bins.
        bound: Half the side of the box.
        divisor: What raw widths and heights are divided by.
    """
    spline = RationalQuadraticSpline(bins=bins, bound=bound)
    offset = math.log(math.expm1(1 - spline.min_slope))

    def translate(params: Tensor) -> Tensor:
        return torch.cat([params[: 2 * bins] / divisor, params[2 * bins :] - offset])

    return Translated(spline, translate)


def pyro_spline(bins: int, bound: float) -> ScalarBijection:
    """Pyro's spline: the same, but with slopes of 0.999 at both ends of the box."""
    spline = RationalQuadraticSpline(bins=bins, bound=bound, boundary_slopes="learned")
    offset = math.log(math.expm1(1 - spline.min_slope))
    end = math.log(math.expm1(1 - 2 * spline.min_slope)) - offset

    def translate(params: Tensor) -> Tensor:
        ends = torch.full_like(params[:1], end)
        return torch.cat([params[: 2 * bins], ends, params[2 * bins :] - offset, ends])

    return Translated(spline, translate, 3 * bins - 1)


def bounded_spline(bins: int, bound: float) -> ScalarBijection:
    """Zuko's spline: all parameters softly bounded, slopes exponentials, no least bin."""
    least = 1e-9  # beside zuko's 0, which ours does not take
    spline = RationalQuadraticSpline(bins=bins, bound=bound, min_bin=least, min_slope=least)
    offset, limit = math.log(math.expm1(1 - least)), -math.log(1e-3)

    def translate(params: Tensor) -> Tensor:
        sizes, slopes = params[: 2 * bins], params[2 * bins :]
        sizes = sizes / (1 + (2 * sizes / limit).abs())
        slopes = torch.exp(slopes / (1 + (slopes / limit).abs()))
        return torch.cat([sizes, torch.log(torch.expm1(slopes - least)) - offset])

    return Translated(spline, translate)


def mixture_of_sigmoids(units: int) -> ScalarBijection:
    """Pyro's neural autoregressive map: slopes softplus(a), no fresh spread of the units."""
    least, fresh, reach = 1e-3, 4 / 3, 4 * (units - 1) / (units + 1)  # of our bijection

    def translate(params: Tensor) -> Tensor:
        slope, shift, logits = params.unflatten(0, (3, units)).unbind(0)
        center = torch.linspace(-reach, reach, units).to(slope).view(-1, *[1] * (slope.ndim - 1))
        slope = torch.log(torch.expm1(F.softplus(slope) - least))
        slope = slope - math.log(math.expm1(fresh - least))
        return torch.cat([slope, shift + fresh * center, logits + center.abs()])

    return Translated(DeepSigmoidal(units=units), translate)


def flowjax_scale(raw: Tensor) -> Tensor:
    """Flowjax's log-scale, 0 at 0."""
    return torch.log(F.softplus(raw + math.log(math.expm1(0.99))) + 0.01)
