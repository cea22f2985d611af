"""Bijections through the distribution function of a mixture: Flow++ and Gaussianization."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_nf._checks import positive_float, positive_int
from pyro_nf.bijections._elements import flat_elements
from pyro_nf.bijections._logit_mixture import (
    SPREAD_SLOPE,
    centers,
    logit_mixture,
    mix_affine_units,
)
from pyro_nf.bijections._normal_logit import logit_ndtr, ndtri_of_logit
from pyro_nf.bijections._root import NumericallyInverted, Root, check_root
from pyro_nf.bijections.affine import Affine

# Normals of this variance, at centres weighted for variance 1/2, add up to nearly N(0, 1).
_FRESH_VARIANCE = 0.5


@dataclass(frozen=True)
class LogisticMixture(NumericallyInverted):
    r"""The distribution function of a mixture of logistics, its logit, then a shift and a scale.

    .. math:: y = e^{s(a)} \, \mathrm{logit}\Big(\sum_k w_k \,
        \sigma\big((x - \mu_k) e^{-s(b_k)}\big)\Big) + c, \qquad s(a) = \frac{a}{1 + |a| / m}

    The map is increasing and onto the line, and far out it is a line. Log-scales are softly
    bounded by m = ``max_log_scale``, as in :class:`~pyro_nf.bijections.Affine`.

    The parameters of each element are K means μ, K raw log-scales b and K logits of the weights,
    then c and a. At zero the components differ by fixed, evenly spread means, for equal ones would
    stay equal in training, and the map is near the identity (8 components: within 0.1 on [-3, 3]).
    Sums run in log space: values and log-derivatives keep their digits in float32 at any x.

    Cost: forward one evaluation of K sigmoids. The inverse is a numerical root, some 5 to 12
    evaluations, with exact derivatives.

    Args:
        components: Number K of logistics.
        max_log_scale: The bound m of all log-scales, > 0.
        root: Budget and tolerance of the inverse.

    Raises:
        TypeError, ValueError: If an option is not positive.

    References:
        Flow++: Improving Flow-Based Generative Models with Variational Dequantization and
        Architecture Design (Ho et al., 2019), arXiv 1902.00275, eq. 10-11.

    Examples:
        >>> import torch
        >>> f = LogisticMixture(components=4)
        >>> x = torch.linspace(-100, 100, 6)
        >>> params = torch.linspace(-1, 1, 84).view(14, 6)
        >>> y, ladj = f.forward(x, params)
        >>> x2, _ = f.inverse(y, params)
        >>> y.shape, torch.allclose(x, x2, rtol=1e-4, atol=1e-5)
        (torch.Size([6]), True)
    """

    components: int = 8
    max_log_scale: float = 5.0
    root: Root = Root()

    def __post_init__(self) -> None:
        """Checks the options."""
        check_root("LogisticMixture", self.root)
        positive_int("LogisticMixture", "components", self.components)
        positive_float("LogisticMixture", "max_log_scale", self.max_log_scale)

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: means, scales, logits; shift and scale."""
        return 3 * self.components + 2

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` of shape S with parameters (param_count, *S); returns y and log|dy/dx|."""
        flat, raw, dtype = flat_elements(self, x, params)
        mean, raw_scale, logits = raw[:-2].unflatten(0, (3, self.components)).unbind(0)
        center = centers(self.components, flat)
        fresh = SPREAD_SLOPE if self.components > 1 else 1.0
        slope = fresh * torch.exp(-_soft_bound(raw_scale, self.max_log_scale))
        y, ladj = mix_affine_units(flat, slope, -(mean + center) * slope, logits - center.abs())
        y, log_scale = Affine(self.max_log_scale).forward(y, raw[-2:])
        return y.view(x.shape).to(dtype), (ladj + log_scale).view(x.shape).to(dtype)


@dataclass(frozen=True)
class GaussianMixtureProbit(NumericallyInverted):
    r"""The distribution function of a mixture of normals, mapped on by the normal quantile.

    .. math:: y = \Phi^{-1}\Big(\sum_k w_k \, \Phi\big((x - \mu_k) e^{-s(b_k)}\big)\Big),
        \qquad s(b) = \frac{b}{1 + |b| / m}

    It takes x of just that mixture to a standard normal y: *Gaussianization* of one dimension. The
    map is increasing and onto the line, and far out it is a line.

    The parameters of each element are K means μ, K raw log-scales b and K logits of the weights.
    At zero the components differ by fixed, evenly spread means, for equal ones would stay equal in
    training, and the map is near the identity (8 components: within 0.1 on [-3, 3]). Everything
    runs in log space: values and log-derivatives keep their digits in float32 at any x.

    Cost: forward one evaluation of K normal distribution functions and four of the quantile's
    Newton steps. The inverse is a numerical root, some 5 to 12 such evaluations, with exact
    derivatives.

    Args:
        components: Number K of normals.
        max_log_scale: The bound m of their log-scales, > 0.
        root: Budget and tolerance of the inverse.

    Raises:
        TypeError, ValueError: If an option is not positive.

    References:
        Gaussianization Flows (Meng et al., 2020), arXiv 2003.01941, section 3.1.

    Examples:
        >>> import torch
        >>> f = GaussianMixtureProbit(components=4)
        >>> x = torch.linspace(-100, 100, 6)
        >>> params = torch.linspace(-1, 1, 72).view(12, 6)
        >>> y, ladj = f.forward(x, params)
        >>> x2, _ = f.inverse(y, params)
        >>> y.shape, torch.allclose(x, x2, rtol=1e-4, atol=1e-5)
        (torch.Size([6]), True)
    """

    components: int = 8
    max_log_scale: float = 5.0
    root: Root = Root()

    def __post_init__(self) -> None:
        """Checks the options."""
        check_root("GaussianMixtureProbit", self.root)
        positive_int("GaussianMixtureProbit", "components", self.components)
        positive_float("GaussianMixtureProbit", "max_log_scale", self.max_log_scale)

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: means, scales and logits."""
        return 3 * self.components

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` of shape S with parameters (param_count, *S); returns y and log|dy/dx|."""
        flat, raw, dtype = flat_elements(self, x, params)
        mean, raw_scale, logits = raw.unflatten(0, (3, self.components)).unbind(0)
        center = centers(self.components, flat)
        variance = _FRESH_VARIANCE if self.components > 1 else 1.0
        log_scale = 0.5 * math.log(variance) + _soft_bound(raw_scale, self.max_log_scale)
        z = (flat - (mean + center)) * torch.exp(-log_scale)
        if self.components > 1:
            logits = logits - center.square() / (2 * (1 - variance))
        u, log_rate = logit_ndtr(z)  # Φ(z) = σ(u): a mixture of sigmoids from here on
        logit, ladj = logit_mixture(u, log_rate - log_scale, logits)
        y = ndtri_of_logit(logit)
        return y.view(x.shape).to(dtype), (ladj - logit_ndtr(y)[1]).view(x.shape).to(dtype)


def _soft_bound(raw: Tensor, bound: float) -> Tensor:
    return raw / (1 + raw.abs() / bound)
