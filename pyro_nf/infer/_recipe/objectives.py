"""What a stage maximises: the ELBO of a flow, or an ELBO of Pyro's between model and guide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from pyro.infer import ELBO
from torch import Tensor
from torch.distributions import Distribution

LogDensity = Callable[[Tensor], Tensor]


class Outcome(NamedTuple):
    """What one step saw.

    Attributes:
        elbo: The ELBO's estimate in nats.
        variance: Variance of the log weights over the step's draws; None where not known.
    """

    elbo: float
    variance: float | None


class Objective(Protocol):
    """What a stage asks of its objective.

    Attributes:
        draws: Draws in a step.
    """

    draws: int

    def step(self, progress: float) -> Outcome:
        """Computes an estimate and leaves its gradient in ``.grad`` of the parameters.

        Args:
            progress: Share of the stage's steps taken, from 0 to 1.
        """


class ReverseKL:
    r"""The ELBO of a distribution against a log density, on the way from an annealed one.

    With annealing the density is :math:`(1 - \beta) \log r + \beta \log p`, from the wide r to p,
    in unconstrained space with all Jacobians: neither p raised to a small power nor a scaled model
    without its Jacobians need be a density at all.

    Args:
        sampler: Draws so many times and scores the draws.
        log_density: Maps ``(n, D)`` to ``(n,)``.
        draws: Draws in a step.
        annealing: The wide density r and the share of the steps over which β rises to 1.
    """

    def __init__(
        self,
        sampler: Callable[[int], tuple[Tensor, Tensor]],
        log_density: LogDensity,
        draws: int,
        annealing: tuple[Distribution, float] | None = None,
    ) -> None:
        self.draws = draws
        self._sampler, self._log_density = sampler, log_density
        self._annealing = annealing

    def step(self, progress: float) -> Outcome:
        """Draws, scores and backpropagates."""
        z, log_q = self._sampler(self.draws)
        target = log_p = self._log_density(z)
        if self._annealing is not None:
            wide, share = self._annealing
            beta = min(1.0, 0.01 + progress / share)
            if beta < 1:
                target = (1 - beta) * wide.log_prob(z) + beta * log_p
        (log_q - target).mean().backward()
        log_weights = (log_p - log_q).detach()
        variance = float(log_weights.var()) if self.draws > 1 else None
        return Outcome(float(log_weights.mean()), variance)


class PyroELBO:
    """An ELBO of Pyro's between a model and a guide.

    Args:
        elbo: The ELBO.
        model: The model.
        guide: The guide.
        args: Their arguments.
        kwargs: Their keyword arguments.
    """

    def __init__(
        self,
        elbo: ELBO,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        self.draws = elbo.num_particles
        self._elbo, self._model, self._guide = elbo, model, guide
        self._args, self._kwargs = args, kwargs

    def step(self, progress: float) -> Outcome:
        """Runs guide and model and backpropagates."""
        del progress
        loss = self._elbo.loss_and_grads(self._model, self._guide, *self._args, **self._kwargs)
        loss = float(loss)
        return Outcome(-loss if math.isfinite(loss) else math.nan, None)
