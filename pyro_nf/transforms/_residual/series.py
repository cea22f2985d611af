"""Estimates of log-determinants of residual maps by power series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from pyro_nf._tracing import host_can_read
from pyro_nf.transforms._residual.function import Columns, linearized

_LOOK_EVERY = 4  # terms


def series_log_det(
    g: Columns,
    x: Tensor,
    probe: Tensor,
    weights: Sequence[float],
    gradient: Literal["exact", "neumann"],
) -> tuple[Tensor, Tensor]:
    r"""Estimates :math:`\log\det(I + J)` of g's Jacobian by weighted terms of its power series.

    .. math:: \sum_{k=1}^n w_k \frac{(-1)^{k+1}}{k} \, ε^\top J^k ε

    With unit weights this is the truncated series (biased, the error is below
    :math:`D L^{n+1} / ((n + 1)(1 - L))` for a Lipschitz constant L); with the weights of
    :func:`roulette_weights` its expectation is the log-determinant. Cost: one evaluation of g and
    n products with its Jacobian; fewer where the host can see that the rest is below rounding.

    Args:
        g: A function of columns with a Lipschitz constant below 1.
        x: Shape ``(D, columns)``.
        probe: ε, of mean 0 and covariance I, shape ``(D, columns)``.
        weights: The weights :math:`w_1, …, w_n`; at least one.
        gradient: "exact" differentiates the estimate itself, keeping all n products. "neumann"
            estimates the gradient by :math:`η^\top \mathrm{d}J \, ε` with
            :math:`η = \sum_k w_k (-J^\top)^{k-1} ε`, of the same expectation as the gradient of
            the estimate, keeping one product, however many terms; second derivatives raise.

    Returns:
        g(x), shape ``(D, columns)``, and the estimate, ``(columns,)``.

    References:
        - Invertible residual networks (Behrmann et al., 2019), arXiv:1811.00995 (the series).
        - Residual flows for invertible generative modeling (Chen et al., 2019),
          arXiv:1906.02735, eqs. 6 and 8.
    """
    value, pullback = linearized(g, x)
    if gradient == "exact":
        return value, _sums(pullback, probe, weights)[0]
    with torch.no_grad():
        estimate, eta = _sums(pullback, probe, weights)
    slope = _FirstOrder.apply((pullback(eta) * probe).sum(0))
    return value, estimate + (slope - slope.detach())


def _sums(pullback: Columns, probe: Tensor, weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The sum of the series, and η."""
    total, eta, power = torch.zeros_like(probe[0]), torch.zeros_like(probe), probe
    # Few terms are not worth a look at the values.
    stops_early = len(weights) > 2 * _LOOK_EVERY and host_can_read(probe)
    negligible = power
    for k, weight in enumerate(weights, 1):
        sign = -1 if k % 2 == 0 else 1
        eta = eta + sign * weight * power
        power = pullback(power)  # (Jᵀ)ᵏ ε
        total = total + sign * weight / k * (power * probe).sum(0)
        if stops_early and k == 1:
            negligible = 1e-3 * torch.finfo(power.dtype).eps * power.detach().norm(dim=0)
        elif stops_early and k % _LOOK_EVERY == 0 and k < len(weights):
            left = max(weights[k:]) * power.detach().norm(dim=0)
            if not bool((left > negligible).any()):  # all that follows is below the rounding
                break
    return total, eta


def roulette_weights(
    exact_terms: int, stop: float, generator: torch.Generator | None = None
) -> list[float]:
    r"""Draws how many terms of a series are computed, and what makes their sum unbiased.

    The first ``exact_terms`` are always computed; after each, the series stops with probability
    ``stop``. A term that is reached with probability q gets the weight 1/q.

    Args:
        exact_terms: Terms before the first stop, at least 1.
        stop: Probability in (0, 1) of stopping at each later term.
        generator: The source of the draw; torch's global one by default.

    Returns:
        The weights of the terms that are computed.
    """
    uniform = 1 - torch.rand((), generator=generator, dtype=torch.float64, device="cpu").item()
    further = math.floor(math.log(uniform) / math.log1p(-stop))
    return [1.0] * exact_terms + [(1 - stop) ** -j for j in range(1, further + 1)]


def rademacher(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws signs ±1 of the shape, dtype and device of x."""
    uniform = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return torch.where(uniform < 0.5, -1.0, 1.0).to(x.dtype)


class _FirstOrder(torch.autograd.Function):
    """The identity; differentiating its gradient again raises instead of leaving terms out."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Returns x."""
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps x, to reach its graph."""
        del output
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Passes the gradient on."""
        return cast("Tensor", _Refusal.apply(grad, ctx.saved_tensors[0]))


class _Refusal(torch.autograd.Function):
    """A gradient whose own derivative is refused."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, x: Tensor) -> Tensor:
        """Returns the gradient."""
        del x
        return grad.view_as(grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps nothing."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Raises."""
        raise NotImplementedError(
            "The log-determinant of a residual layer in training has first derivatives only. Call "
            'eval() for second ones, or build it with log_det="exact".'
        )
