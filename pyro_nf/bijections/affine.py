"""Affine bijections: a shift, a shift and a scale, a gated average."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_nf._checks import negative_float, positive_float
from pyro_nf.bijections import _affine
from pyro_nf.bijections._affine import Bounds
from pyro_nf.bijections._base import ScalarBijection
from pyro_nf.bijections._closed_form import ClosedForm, Direction, Saved
from pyro_nf.bijections._elements import check_params

# exp(60) times data of any sensible size is finite in float32 and bfloat16.
_LEAST_LOGIT = -60.0


@dataclass(frozen=True)
class Additive(ScalarBijection):
    r"""A shift, which preserves volume.

    .. math:: y = x + b, \qquad \log |dy/dx| = 0

    One parameter for each element: the shift b. Either direction costs one addition.

    References:
        NICE: Non-linear Independent Components Estimation (Dinh et al., 2014), arXiv 1410.8516.

    Examples:
        >>> import torch
        >>> x = torch.tensor([1.0, 2.0])
        >>> y, ladj = Additive().forward(x, torch.full((1, 2), 0.5))
        >>> y, ladj
        (tensor([1.5000, 2.5000]), tensor([0., 0.]))
    """

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: the shift."""
        return 1

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``x + b``; the log-derivative is exactly 0."""
        check_params(self, x, params)
        y = x + params[0]
        return y, torch.zeros_like(y)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``y - b``; the log-derivative is exactly 0."""
        check_params(self, y, params)
        x = y - params[0]
        return x, torch.zeros_like(x)


@dataclass(frozen=True)
class Affine(ClosedForm):
    r"""A shift and a softly bounded scale.

    .. math:: y = x \exp(s(a)) + b, \qquad s(a) = \frac{a}{1 + |a| / m}, \qquad
        \log |dy/dx| = s(a)

    Two parameters for each element, in this order: the shift b and the raw log-scale a. Since
    |s| < m, no scale overflows, yet a has a gradient everywhere (a clamp has none outside its
    range). The bound m is ``max_log_scale`` where a > 0 and ``-min_log_scale`` where a < 0.
    Either direction costs one exponential.

    Args:
        max_log_scale: The upper bound of the log-scale, > 0.
        min_log_scale: Its lower bound, < 0; None for ``-max_log_scale``.

    Raises:
        TypeError, ValueError: If ``max_log_scale`` is not a finite number above 0, or
            ``min_log_scale`` not one below 0.

    References:
        Density estimation using Real NVP (Dinh et al., 2016), arXiv 1605.08803.

    Examples:
        >>> import torch
        >>> x = torch.linspace(-1, 1, 5)
        >>> y, ladj = Affine().forward(x, torch.ones(2, 5))
        >>> y.shape, ladj.shape
        (torch.Size([5]), torch.Size([5]))
        >>> x2, _ = Affine().inverse(y, torch.ones(2, 5))
        >>> torch.allclose(x, x2, atol=1e-6)
        True
    """

    max_log_scale: float = 5.0
    min_log_scale: float | None = None

    def __post_init__(self) -> None:
        """Checks the options."""
        positive_float("Affine", "max_log_scale", self.max_log_scale)
        if self.min_log_scale is not None:
            negative_float("Affine", "min_log_scale", self.min_log_scale)

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: shift and raw log-scale."""
        return 2

    def evaluate(
        self, value: Tensor, params: Tensor, direction: Direction
    ) -> tuple[Tensor, Tensor]:
        """The map and its log-derivative in plain differentiable operations."""
        return _affine.evaluate(value, params, self._bounds, direction)

    def solve(
        self, value: Tensor, params: Tensor, direction: Direction
    ) -> tuple[Tensor, Tensor, Saved]:
        """The map without a graph, and what :meth:`pull_back` reads of it."""
        return _affine.solve(value, params, self._bounds, direction)

    def solve_into(self, y: Tensor, params: Tensor, x: Tensor, ladj: Tensor) -> None:
        """The inverse without a graph, in place."""
        _affine.solve_into(y, params, self._bounds, x, ladj)

    def pull_back(
        self, saved: Saved, grad: Tensor, ladj_grad: Tensor, direction: Direction
    ) -> tuple[Tensor, Tensor]:
        """The gradients of the values and the parameters."""
        return _affine.pull_back(saved, grad, ladj_grad, direction)

    @property
    def _bounds(self) -> Bounds:
        upper = self.max_log_scale
        return Bounds(upper, -upper if self.min_log_scale is None else self.min_log_scale)


@dataclass(frozen=True)
class GatedAffine(ScalarBijection):
    r"""A gated average of the input and a new value, with scales below 1.

    .. math:: y = \sigma x + (1 - \sigma) m, \qquad \sigma = \mathrm{sigmoid}(a + \mathrm{bias}),
        \qquad \log |dy/dx| = \log \sigma

    Two parameters for each element, in this order: the value m and the raw gate a. Zero
    parameters give y = sigmoid(bias) x, near the identity for a large bias. The gate's argument
    is held at -60 or above, where the inverse is still finite. Either direction costs two
    special functions.

    Args:
        bias: The gate's argument at zero parameters; larger means nearer to the identity.

    Raises:
        TypeError, ValueError: If ``bias`` is not a finite number.

    References:
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        arXiv 1606.04934, eq. 13-14.

    Examples:
        >>> import torch
        >>> x = torch.linspace(-1, 1, 5)
        >>> y, ladj = GatedAffine().forward(x, torch.zeros(2, 5))
        >>> bool((ladj < 0).all())
        True
        >>> x2, _ = GatedAffine().inverse(y, torch.zeros(2, 5))
        >>> torch.allclose(x, x2, atol=1e-6)
        True
    """

    bias: float = 2.0

    def __post_init__(self) -> None:
        """Checks the option."""
        if isinstance(self.bias, bool) or not isinstance(self.bias, (int, float)):
            raise TypeError(
                f"GatedAffine got bias={self.bias!r} of type {type(self.bias).__name__}. "
                "Pass a number."
            )
        if not math.isfinite(self.bias):
            raise ValueError(f"GatedAffine got bias={self.bias}. Pass a finite number.")

    @property
    def param_count(self) -> int:
        """Number of parameters for each element: value and raw gate."""
        return 2

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``σ x + (1 - σ) m`` with log-derivative ``log σ``."""
        check_params(self, x, params)
        logit = self._logit(_widened(params[1], x))
        y = torch.sigmoid(logit) * x + torch.sigmoid(-logit) * params[0]
        return y, F.logsigmoid(logit)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``y + (y - m)(1 - σ)/σ`` with log-derivative ``-log σ``."""
        check_params(self, y, params)
        logit = self._logit(_widened(params[1], y))
        # (1 - σ)/σ = exp(-logit): no difference of near numbers, no quotient by a tiny σ.
        return y + (y - params[0]) * torch.exp(-logit), -F.logsigmoid(logit)

    def _logit(self, raw: Tensor) -> Tensor:
        return (raw + self.bias).clamp(min=_LEAST_LOGIT)


def _widened(raw: Tensor, value: Tensor) -> Tensor:
    """A raw parameter in no less precision than the value: autocast's networks make half."""
    return raw.to(torch.promote_types(raw.dtype, value.dtype))
