"""Chains of Hamiltonian Monte Carlo between two densities, moved all at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal

_WANTED_ACCEPTANCE = 0.7
# In the whitened coordinates. A step that meets a longer gradient is rejected all the same, and
# the bound keeps the positions at which the density is asked for finite.
_LARGEST_GRADIENT = 1e6


class Chains:
    r"""States of many chains, moved by HMC on :math:`(1-\beta) \log r + \beta \log p`.

    Both densities and their gradients are kept for the present states, so that a change of
    :math:`\beta` asks for neither again. Where the target is not finite its density counts as
    zero, and a component of a gradient that is not finite as zero: the leapfrog stays reversible
    and keeps volumes, so the moves leave the density invariant all the same.

    Args:
        log_density: Log p, from ``(n, D)`` to ``(n,)``.
        start: The distribution r of the chains' first states.
        scale: Standard deviations ``(D,)`` or a triangular factor ``(D, D)`` in which steps are
            measured; None for those of ``start``.
        count: Number of chains.

    Attributes:
        positions: Shape ``(count, D)``, float64.
        log_start: Log r there, ``(count,)``.
        log_target: Log p there, ``(count,)``; minus infinity where it is not finite.
    """

    def __init__(
        self,
        log_density: Callable[[Tensor], Tensor],
        start: Distribution,
        scale: Tensor | None,
        count: int,
    ) -> None:
        self._log_density, self._start, self.count = log_density, start, count
        self.positions = start.sample(torch.Size([count])).double()
        self._scale = _scale_of(start) if scale is None else scale.to(self.positions)
        self.log_start, self.log_target, self._slopes = self._evaluate(self.positions)
        # The step that suits a normal distribution of the start's scale in D dimensions.
        spread = self._whiten(self.positions).std(0, correction=0).mean().item()
        self._log_step = math.log(max(spread, 1e-6) * self.positions.shape[-1] ** -0.25)

    @property
    def alive(self) -> Tensor:
        """Whether the target is finite at each state, shape ``(count,)``."""
        return self.log_target.isfinite()

    @property
    def log_ratio(self) -> Tensor:
        """Log p - log r at the states, shape ``(count,)``."""
        return self.log_target - self.log_start

    def move(self, beta: float, leapfrog_steps: int) -> float:
        """Moves all chains once; returns the mean acceptance, which adapts the next step size."""
        # Steps of different length, from chain to chain: none is in step with an orbit, and
        # narrow places, such as a funnel's neck, are left by the shorter ones.
        jitter = 2 * torch.rand_like(self.log_start)[:, None] - 1  # (count, 1)
        step = (self._log_step + jitter).exp()
        momentum = torch.randn_like(self.positions)
        energy = self._energy(self.log_start, self.log_target, momentum, beta)
        position, slopes = self.positions, self._slopes
        log_start, log_target = self.log_start, self.log_target
        for _ in range(leapfrog_steps):
            momentum = momentum + step / 2 * self._force(slopes, beta)
            position = position + self._unwhiten(step * momentum)
            log_start, log_target, slopes = self._evaluate(position)
            momentum = momentum + step / 2 * self._force(slopes, beta)
        gain = energy - self._energy(log_start, log_target, momentum, beta)
        probability = gain.clamp(max=0).exp().nan_to_num(0.0)  # (count,)
        accept = torch.rand_like(probability) < probability
        self.positions = torch.where(accept[:, None], position, self.positions)
        self._slopes = torch.where(accept[:, None], slopes, self._slopes)
        self.log_start = torch.where(accept, log_start, self.log_start)
        self.log_target = torch.where(accept, log_target, self.log_target)
        acceptance = float(probability.mean())
        self._log_step += 0.25 * (acceptance - _WANTED_ACCEPTANCE)
        return acceptance

    def resample(self, log_weights: Tensor) -> None:
        """Draws the chains anew from themselves by weight, systematically."""
        weights = torch.softmax(log_weights.masked_fill(~log_weights.isfinite(), -math.inf), 0)
        if not bool(weights.isfinite().all()):  # no chain has any weight: leave them
            return
        grid = torch.arange(self.count).to(weights).add(torch.rand_like(weights[:1])) / self.count
        chosen = torch.searchsorted(weights.cumsum(0), grid).clamp(max=self.count - 1)
        self.positions, self._slopes = self.positions[chosen], self._slopes[:, chosen]
        self.log_start, self.log_target = self.log_start[chosen], self.log_target[chosen]

    @torch.enable_grad()
    def _evaluate(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log r, log p and both whitened gradients, stacked to ``(2, count, D)``."""
        positions = positions.detach().requires_grad_()
        log_start = self._start.log_prob(positions)
        log_target = self._log_density(positions).to(log_start)
        slopes = [
            torch.autograd.grad(value.sum(), positions)[0] for value in (log_start, log_target)
        ]
        slopes_ = self._whiten_slopes(torch.stack(slopes))
        slopes_ = slopes_.nan_to_num(0.0).clamp(-_LARGEST_GRADIENT, _LARGEST_GRADIENT)
        log_target = log_target.detach()
        log_target = torch.where(log_target.isfinite(), log_target, -math.inf)
        return log_start.detach(), log_target, slopes_

    def _force(self, slopes: Tensor, beta: float) -> Tensor:
        return (1 - beta) * slopes[0] + beta * slopes[1]

    def _energy(
        self, log_start: Tensor, log_target: Tensor, momentum: Tensor, beta: float
    ) -> Tensor:
        tempered = (1 - beta) * log_start + (beta * log_target if beta else 0.0)
        return momentum.square().sum(-1) / 2 - tempered

    def _unwhiten(self, moves: Tensor) -> Tensor:
        return moves * self._scale if self._scale.ndim == 1 else moves @ self._scale.mT

    def _whiten_slopes(self, slopes: Tensor) -> Tensor:
        return slopes * self._scale if self._scale.ndim == 1 else slopes @ self._scale

    def _whiten(self, positions: Tensor) -> Tensor:
        if self._scale.ndim == 1:
            return positions / self._scale
        return torch.linalg.solve_triangular(self._scale, positions.mT, upper=False).mT


def _scale_of(start: Distribution) -> Tensor:
    inner = start.base_dist if isinstance(start, Independent) else start
    if isinstance(inner, MultivariateNormal):
        return inner.scale_tril.double()
    return start.stddev.double()
