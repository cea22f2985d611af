"""The sigmoidal bijections of neural autoregressive flows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_nf._checks import choice, positive_int
from pyro_nf.bijections._elements import flat_elements
from pyro_nf.bijections._logit_mixture import (
    SPREAD_SLOPE,
    centers,
    logit_mixture,
    mix_affine_units,
    spread,
)
from pyro_nf.bijections._rectified_mixture import elu_mixture, leaky_mixture
from pyro_nf.bijections._root import NumericallyInverted, Root, check_root

_LEAST_SLOPE = 1e-3
# What spreads the inner outputs of a dense flow, in units of x.
_INNER_REACH = 0.5
_RECTIFIED_REACH = 0.25


@dataclass(frozen=True)
class DeepSigmoidal(NumericallyInverted):
    r"""A mixture of K units, brought back to the line: the deep sigmoidal flow (DSF).

    .. math:: y = T^{-1}\Big(\sum_k w_k \, T(a_k x + b_k)\Big), \qquad
        a_k > 0, \quad w_k > 0, \quad \sum_k w_k = 1

    with T the activation: the sigmoid, tanh, the exponential linear unit or the leaky ReLU (slope
    1/100 below 0). The map is increasing and onto the line; far out it is a line, whose slope is
    the least a_k where T is bounded. The leaky ReLU makes a piecewise line, hence a density with
    jumps; the others are smooth but for the ELU's second derivative.

    The parameters of each element are raw slopes, shifts and logits of the weights, K each, in
    this order. At zero the units differ by fixed shifts, evenly spread, and weights to match, for
    equal units would stay equal in training: the map is near the identity (16 sigmoids: within 0.1
    on [-3, 3]). Slopes stay above 1e-3.

    Sums run in log space, so that values and log-derivatives keep their digits in float32 at any
    x, where the textbook formula saturates beyond about ±16.

    Cost: forward one evaluation of K units. The inverse is a numerical root, some 5 to 12
    evaluations, with exact derivatives.

    Args:
        units: Number K of units.
        activation: "sigmoid", "tanh", "elu" or "leaky_relu".
        root: Budget and tolerance of the inverse.

    Raises:
        TypeError, ValueError: If an option is out of its range or unknown.

    References:
        Neural Autoregressive Flows (Huang et al., 2018), arXiv 1804.00779, eq. 8.

    Examples:
        >>> import torch
        >>> f = DeepSigmoidal(units=4)
        >>> x = torch.linspace(-100, 100, 6)
        >>> params = torch.linspace(-1, 1, 72).view(12, 6)
        >>> y, ladj = f.forward(x, params)
        >>> x2, _ = f.inverse(y, params)
        >>> y.shape, torch.allclose(x, x2, rtol=1e-4, atol=1e-5)
        (torch.Size([6]), True)
    """

    units: int = 16
    activation: Literal["sigmoid", "tanh", "elu", "leaky_relu"] = "sigmoid"
    root: Root = Root()

    def __post_init__(self) -> None:
        """Checks the options."""
        check_root("DeepSigmoidal", self.root)
        positive_int("DeepSigmoidal", "units", self.units)
        choice(
            "DeepSigmoidal",
            "activation",
            self.activation,
            ("sigmoid", "tanh", "elu", "leaky_relu"),
        )

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: slopes, shifts and logits."""
        return 3 * self.units

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` of shape S with parameters (param_count, *S); returns y and log|dy/dx|."""
        flat, raw, dtype = flat_elements(self, x, params)
        raw_slope, shift, logits = raw.unflatten(0, (3, self.units)).unbind(0)
        mix = self._saturating if self.activation in ("sigmoid", "tanh") else self._rectified
        y, ladj = mix(flat, raw_slope, shift, logits)
        return y.view(x.shape).to(dtype), ladj.view(x.shape).to(dtype)

    def _saturating(
        self, x: Tensor, raw_slope: Tensor, shift: Tensor, logits: Tensor
    ) -> tuple[Tensor, Tensor]:
        # tanh(u) = 2 σ(2 u) - 1 and artanh(2 p - 1) = logit(p) / 2: tanh is the sigmoid at twice
        # the scale on both sides.
        scale, reach = (2, 6.0) if self.activation == "tanh" else (1, 4.0)
        center = centers(self.units, x, reach)
        fresh = SPREAD_SLOPE if self.units > 1 else 1.0
        slope = positive(raw_slope, fresh)
        shift = torch.sub(scale * shift, center, alpha=fresh)
        y, ladj = mix_affine_units(scale * x, slope, shift, logits - center.abs())
        return y / scale, ladj

    def _rectified(
        self, x: Tensor, raw_slope: Tensor, shift: Tensor, logits: Tensor
    ) -> tuple[Tensor, Tensor]:
        mix = elu_mixture if self.activation == "elu" else leaky_mixture
        slope = positive(raw_slope, 1.0)
        shift = shift - spread(self.units, _RECTIFIED_REACH, x)
        return mix(torch.addcmul(shift, slope, x), slope, logits)


@dataclass(frozen=True)
class DeepDenseSigmoidal(NumericallyInverted):
    r"""Layers of sigmoid mixtures that mix each other's outputs: the dense sigmoidal flow (DDSF).

    From h⁰ = x, layer l mixes its d inputs into K units and those into its outputs,

    .. math:: z_k = a_k \sum_j u_{kj} h^{l-1}_j + b_k, \qquad
        h^l_m = \mathrm{logit}\Big(\sum_k w_{mk} \, \sigma(z_k)\Big)

    where the rows of u and w are positive and add up to 1 and a > 0. There are K outputs, but one,
    y, of the last layer. The map is increasing and onto the line, and far out it is a line.

    The parameters of each element are, layer by layer, K raw slopes, K shifts, the logits of w (K
    for each output) and, from the second layer on, those of u (K for each unit): all of them come
    from the conditioner, where the paper learns the larger part as constants. At zero the units
    differ by fixed, evenly spread shifts and weights, for equal units would stay equal in
    training; the map is near the identity (8 units: within 0.2 on [-3, 3]). Everything runs in
    log space.

    Cost: forward one evaluation of ``layers`` K² terms. The inverse is a numerical root, some 5
    to 12 evaluations, with exact derivatives.

    Args:
        units: Number K of units in each layer.
        layers: Number of layers.
        root: Budget and tolerance of the inverse.

    Raises:
        TypeError, ValueError: If an option is not positive.

    References:
        Neural Autoregressive Flows (Huang et al., 2018), arXiv 1804.00779, eq. 9-10.

    Examples:
        >>> import torch
        >>> f = DeepDenseSigmoidal(units=3, layers=2)
        >>> x = torch.linspace(-100, 100, 6)
        >>> params = torch.linspace(-1, 1, 6 * f.param_count).view(-1, 6)
        >>> y, ladj = f.forward(x, params)
        >>> x2, _ = f.inverse(y, params)
        >>> f.param_count, torch.allclose(x, x2, rtol=1e-4, atol=1e-5)
        (33, True)
    """

    units: int = 8
    layers: int = 2
    root: Root = Root()

    def __post_init__(self) -> None:
        """Checks the options."""
        check_root("DeepDenseSigmoidal", self.root)
        positive_int("DeepDenseSigmoidal", "units", self.units)
        positive_int("DeepDenseSigmoidal", "layers", self.layers)

    @property
    def param_count(self) -> int:
        """Number of parameters for each element, over all layers."""
        return sum(map(sum, self._sizes))

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` of shape S with parameters (param_count, *S); returns y and log|dy/dx|."""
        flat, raw, dtype = flat_elements(self, x, params)
        center = centers(self.units, flat)
        h, log_rate = flat[None], torch.zeros_like(flat)[None]  # (inputs, n)
        parts = iter(raw.split([size for layer in self._sizes for size in layer]))
        for sizes in self._sizes:
            raw_slope, shift, out_logits, *in_logits = (next(parts) for _ in sizes)
            if in_logits:
                h, log_rate = self._mixed_inputs(h, log_rate, in_logits[0])
            fresh = SPREAD_SLOPE if self.units > 1 else 1.0
            slope = positive(raw_slope, fresh)
            z = torch.addcmul(torch.sub(shift, center, alpha=fresh), slope, h)  # (K, n)
            outputs = out_logits.shape[0] // self.units
            tilt = spread(outputs, _INNER_REACH, flat)[:, None]
            logits = out_logits.unflatten(0, (outputs, self.units)) - (center - tilt).abs()
            h, log_rate = logit_mixture(z, slope.log() + log_rate, logits)  # (outputs, n)
        return h.view(x.shape).to(dtype), log_rate.view(x.shape).to(dtype)

    def _mixed_inputs(self, h: Tensor, log_rate: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Averages the K inputs for each unit, and their rates, in log space."""
        log_u = logits.unflatten(0, (self.units, self.units)).log_softmax(1)
        return (log_u.exp() * h).sum(1), torch.logsumexp(log_u + log_rate, 1)

    @property
    def _sizes(self) -> list[tuple[int, ...]]:
        """For each layer the rows of a, b, w and, from the second on, u."""
        k = self.units
        outputs = [k] * (self.layers - 1) + [1]
        return [(k, k, m * k) + ((k * k,) if i else ()) for i, m in enumerate(outputs)]


def positive(raw: Tensor, fresh: float) -> Tensor:
    """Maps raw slopes to slopes above 1e-3: ``fresh`` at 0, linear in large ones."""
    return F.softplus(raw + math.log(math.expm1(fresh - _LEAST_SLOPE))) + _LEAST_SLOPE
