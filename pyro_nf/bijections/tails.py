"""Tail maps: bijections of the line that make tails heavier, lighter, or skewed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_nf._checks import positive_float
from pyro_nf.bijections._base import ScalarBijection
from pyro_nf.bijections._elements import flat_elements
from pyro_nf.bijections._normal_tail import log_erfcx, log_tail, tail_quantile

_MAX_LOG_SCALE = 5.0
_MAX_SKEWNESS = 2.0
_MAX_LOG_THRESHOLD = 3.0
_MAX_LOG_TAIL = 3.0


@dataclass(frozen=True)
class SinhArcsinh(ScalarBijection):
    r"""The sinh-arcsinh map: skewness and tail weight, with a shift and a scale.

    .. math:: y = \mu + \sigma \sinh\bigl(\tau (\operatorname{arsinh} x + \varepsilon)\bigr),
        \qquad \log \frac{dy}{dx} = \log \sigma\tau + \log\cosh(\tau(\operatorname{arsinh} x +
        \varepsilon)) - \tfrac12 \log(1 + x^2)

    Far out :math:`|y|` grows as :math:`|x|^\tau`: τ > 1 makes the tails of a normal x heavier, as
    those of a power of it, τ < 1 lighter; ε > 0 skews to the right. All moments stay finite; for
    tails that fall as a power of y see :class:`TailTransform`.

    Four parameters for each element: μ, raw log σ, ε and raw log τ, all but μ softly bounded. Zero
    parameters give the identity. Either direction costs two hyperbolic functions.

    Args:
        max_tailweight: The bound t of the tail weight: 1/t < τ < t.

    Raises:
        TypeError, ValueError: If ``max_tailweight`` is not a finite number above 1.

    Warning:
        float32 overflows where :math:`(2|x| e^{\varepsilon})^\tau` does, at the default bound
        beyond :math:`|x| = 10^{11}`.

    References:
        - Sinh-arcsinh distributions (Jones & Pewsey, 2009), Biometrika 96(4).

    Examples:
        >>> import torch
        >>> x = torch.linspace(-2, 2, 5)
        >>> y, ladj = SinhArcsinh().forward(x, torch.ones(4, 5))
        >>> y.shape, ladj.shape
        (torch.Size([5]), torch.Size([5]))
    """

    max_tailweight: float = 3.0

    def __post_init__(self) -> None:
        """Checks the option."""
        if positive_float("SinhArcsinh", "max_tailweight", self.max_tailweight) <= 1:
            raise ValueError(
                f"SinhArcsinh got max_tailweight={self.max_tailweight}. Pass a number above 1."
            )

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: shift, log-scale, skewness, log-tailweight."""
        return 4

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``μ + σ sinh(τ (arsinh x + ε))``."""
        flat, raw, dtype = flat_elements(self, x, params)
        loc, log_scale, skewness, log_tail_weight = self._constrained(raw)
        source = flat.asinh()
        target = log_tail_weight.exp() * (source + skewness)
        y = loc + log_scale.exp() * target.sinh()
        ladj = log_scale + log_tail_weight + _log_cosh(target) - _log_cosh(source)
        return y.view(x.shape).to(dtype), ladj.view(x.shape).to(dtype)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``sinh(arsinh((y - μ) / σ) / τ - ε)``."""
        flat, raw, dtype = flat_elements(self, y, params)
        loc, log_scale, skewness, log_tail_weight = self._constrained(raw)
        target = ((flat - loc) * torch.exp(-log_scale)).asinh()
        source = torch.exp(-log_tail_weight) * target - skewness
        ladj = _log_cosh(source) - _log_cosh(target) - log_scale - log_tail_weight
        return source.sinh().view(y.shape).to(dtype), ladj.view(y.shape).to(dtype)

    def _constrained(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (
            raw[0],
            _bounded(raw[1], _MAX_LOG_SCALE),
            _bounded(raw[2], _MAX_SKEWNESS),
            _bounded(raw[3], math.log(self.max_tailweight)),
        )


@dataclass(frozen=True)
class SoftLog(ScalarBijection):
    r"""The log soft extension (LOFT): the identity up to a threshold, logarithmic beyond.

    .. math:: y = \operatorname{sign}(x) \bigl(\min(|x|, t) + \log(1 + \max(|x| - t, 0))\bigr),
        \qquad \log \frac{dy}{dx} = -\log(1 + \max(|x| - t, 0))

    As a flow's last layer it keeps draws within a reasonable range, which steadies the gradients
    of variational inference in many dimensions; its inverse (``.inv`` of a layer) makes tails
    heavier. It is once continuously differentiable.

    One parameter for each element: the raw logarithm of t, with :math:`t / t_0` softly bounded to
    :math:`e^{\pm 3}`. Zero parameters give :math:`t = t_0`, so the identity on
    :math:`[-t_0, t_0]`. Either direction costs one logarithm or exponential.

    Args:
        threshold: The threshold :math:`t_0` at zero parameters, > 0.

    Raises:
        TypeError, ValueError: If ``threshold`` is not a finite number above 0.

    Warning:
        The inverse is exponential: in float32 data more than 88 beyond the threshold overflow.

    References:
        - Stable training of normalizing flows for high-dimensional variational inference
          (Andrade, 2024), arXiv:2402.16408.

    Examples:
        >>> import torch
        >>> y, ladj = SoftLog().forward(torch.tensor([5.0, 1e6]), torch.zeros(1, 2))
        >>> y
        tensor([  5.0000, 113.8154])
    """

    threshold: float = 100.0

    def __post_init__(self) -> None:
        """Checks the option."""
        positive_float("SoftLog", "threshold", self.threshold)

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: the raw logarithm of the threshold."""
        return 1

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to itself within the threshold, to its logarithm beyond."""
        flat, raw, dtype = flat_elements(self, x, params)
        inner, excess = self._split(flat, raw)
        log = excess.log1p()
        y = inner + flat.sign() * log
        return y.view(x.shape).to(dtype), (-log).view(x.shape).to(dtype)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to itself within the threshold, to its exponential beyond."""
        flat, raw, dtype = flat_elements(self, y, params)
        inner, excess = self._split(flat, raw)
        x = inner + flat.sign() * excess.expm1()
        return x.view(y.shape).to(dtype), excess.view(y.shape).to(dtype)

    def _split(self, value: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """The part of a value within the threshold, and by how much it lies beyond."""
        t = self.threshold * _bounded(raw[0], _MAX_LOG_THRESHOLD).exp()
        return torch.clamp(value, -t, t), (value.abs() - t).clamp(min=0)


@dataclass(frozen=True)
class TailTransform(ScalarBijection):
    r"""The tail transform: from normal tails to tails that fall as a power.

    .. math:: y = \mu + \sigma \frac{s}{\lambda_s}
        \Bigl(\operatorname{erfc}\bigl(|x| / \sqrt2\bigr)^{-\lambda_s} - 1\Bigr), \qquad
        s = \operatorname{sign}(x)

    The tail weights :math:`\lambda_\pm > 0` of both sides are learned apart. If x has normal
    tails, :math:`P(|y| > u)` falls as :math:`u^{-1/\lambda}`, as that of Student's t with 1/λ
    degrees of freedom: moments of order 1/λ and above are infinite. A Lipschitz map can not do
    this, and most layers are: put it last, above layers that see light tails, or hand its layer's
    ``.inv`` data with heavy tails.

    With :math:`L = -\log\operatorname{erfc}(|x|/\sqrt2)` all is computed in log space,

    .. math:: y - \mu = \tfrac{s\sigma}{\lambda} (e^{\lambda L} - 1), \qquad
        \log \frac{dy}{dx} = \log \sigma\sqrt{2/\pi} + \lambda L -
        \log\operatorname{erfcx}(|x|/\sqrt2),

    so the inverse takes any finite y; it inverts the error function by five Newton steps. The
    family does not contain the identity: even as λ → 0 the tails are exponential.

    Four parameters for each element: μ, raw log σ, raw log λ₊ and raw log λ₋. Zero parameters give
    μ = 0, σ = 1 and λ± = ``tail``; the log-tails are softly bounded to ±3 around that.

    Cost: forward three special functions, inverse some fifteen.

    Args:
        tail: The tail weight λ at zero parameters, > 0.

    Raises:
        TypeError, ValueError: If ``tail`` is not a finite number above 0.

    Warning:
        Forward, y is as large as :math:`e^{\lambda x^2 / 2}`: float32 overflows beyond
        :math:`|x| = 13/\sqrt\lambda`.

    References:
        - Flexible tails for normalizing flows (Hickling & Prangle, 2024), arXiv:2406.16971.

    Examples:
        >>> import torch
        >>> y = torch.tensor([-1e9, 0.5, 1e9])
        >>> x, ladj = TailTransform(tail=0.5).inverse(y, torch.zeros(4, 3))
        >>> x
        tensor([-8.6788,  0.4677,  8.6788])
    """

    tail: float = 0.1

    def __post_init__(self) -> None:
        """Checks the option."""
        positive_float("TailTransform", "tail", self.tail)

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: shift, log-scale and two tail weights."""
        return 4

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``y``, with tails heavier than those of ``x``."""
        flat, raw, dtype = flat_elements(self, x, params)
        sign = _sign(flat)
        log_scale, tail = self._constrained(raw, sign)
        z = sign * flat
        level = log_tail(z)
        y = raw[0] + sign * log_scale.exp() * torch.expm1(tail * level) / tail
        ladj = self._ladj(z, level, log_scale, tail)
        return y.view(x.shape).to(dtype), ladj.view(x.shape).to(dtype)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``x``, with tails lighter than those of ``y``."""
        flat, raw, dtype = flat_elements(self, y, params)
        centred = flat - raw[0]
        sign = _sign(centred)
        log_scale, tail = self._constrained(raw, sign)
        level = torch.log1p(tail * sign * centred * torch.exp(-log_scale)) / tail
        z = tail_quantile(level)
        ladj = -self._ladj(z, level, log_scale, tail)
        return (sign * z).view(y.shape).to(dtype), ladj.view(y.shape).to(dtype)

    def _constrained(self, raw: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
        """The log-scale, and the tail weight of each element's own side."""
        own = torch.where(sign > 0, raw[2], raw[3])
        return _bounded(raw[1], _MAX_LOG_SCALE), self.tail * _bounded(own, _MAX_LOG_TAIL).exp()

    def _ladj(self, z: Tensor, level: Tensor, log_scale: Tensor, tail: Tensor) -> Tensor:
        return log_scale + 0.5 * math.log(2 / math.pi) + tail * level - log_erfcx(z)


def _bounded(raw: Tensor, bound: float) -> Tensor:
    """The identity near 0 that stays in ``(-bound, bound)``, with a gradient everywhere."""
    return raw / (1 + raw.abs() / bound)


def _sign(value: Tensor) -> Tensor:
    """The sign without a zero: a factor that keeps the slope at 0."""
    return torch.where(value < 0, -torch.ones_like(value), torch.ones_like(value))


def _log_cosh(value: Tensor) -> Tensor:
    """Logarithm of cosh without an overflow, and smooth at 0."""
    return torch.logaddexp(value, -value) - math.log(2)
