"""One stage of stochastic optimisation: steps, windows, the best weights kept."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_nf.bijections import ConvergenceError
from pyro_nf.infer._interrupt import interrupt_after
from pyro_nf.infer._optimizer import JointOptimizer, adam, schedule_factor
from pyro_nf.infer._recipe.objectives import Objective, Outcome
from pyro_nf.infer.checkpoint import random_state, save_checkpoint, set_random_state
from pyro_nf.infer.guide_fit import StopReason

_WINDOW = 100
_MOST_SKIPPED = 50


@dataclass(frozen=True, kw_only=True)
class ClimbPlan:
    """How a stage steps.

    Attributes:
        owner: Who asked, for messages.
        num_steps: Steps to take.
        learning_rate: Adam's first rate, which falls to 0 along a cosine.
        clip_norm: Largest norm of the gradient; None for no bound.
        tolerance: Standard error of the ELBO over 100 steps, in nats, at which to stop.
        measured_from: Share of the steps after which the objective is the final one.
        checkpoint: File for checkpoints.
        checkpoint_every: Steps between two.
        callback: Called with the step and its ELBO.
    """

    owner: str
    num_steps: int
    learning_rate: float
    clip_norm: float | None
    tolerance: float | None = None
    measured_from: float = 0.0
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_every: int = 500
    callback: Callable[[int, float], None] | None = None


@dataclass
class Climb:
    """A stage in progress: Adam on an objective, with non-finite steps skipped.

    Attributes:
        objective: What it maximises.
        parameters: What it trains.
        plan: How.
        bar: The progress bar it moves.
        losses: Negative ELBO of each step; NaN where it was skipped.
        skipped: Steps skipped.
        best_step: Step whose weights were kept.
        stopped: Why it ended.
    """

    objective: Objective
    parameters: Sequence[Any]
    plan: ClimbPlan
    bar: tqdm
    header: dict[str, Any] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    skipped: int = 0
    best_step: int = 0
    stopped: StopReason = "max_steps"

    def __post_init__(self) -> None:
        """Makes the optimiser."""
        plan = self.plan
        trained = [p for p in self.parameters if p.requires_grad]
        self._optimizer = JointOptimizer(
            adam(plan.learning_rate)(trained),
            schedule_factor(plan.owner, "cosine", plan.num_steps),
            plan.clip_norm,
        )
        self._variances: list[float] = []
        self._best: list[Tensor] = []
        self._best_elbo, self._in_a_row = -math.inf, 0

    def run(self) -> None:
        """Steps to the end; the parameters leave with the best weights, whatever happens."""
        plan = self.plan
        try:
            while len(self.losses) < plan.num_steps and not self._done():
                if plan.checkpoint is None:
                    self._advance()
                else:  # only whole steps can be continued
                    with interrupt_after():
                        self._advance()
        except KeyboardInterrupt:
            self.stopped = "interrupted"
        finally:
            if plan.checkpoint is not None:
                save_checkpoint(plan.checkpoint, self.state_dict(), plan.owner)
            self._keep_best()

    def _advance(self) -> None:
        plan, step = self.plan, len(self.losses)
        outcome = self._outcome(step / plan.num_steps)
        self._optimizer.loss = outcome.elbo
        self._optimizer([])
        if self._optimizer.skipped:
            self.skipped += 1
            self._in_a_row += 1
        else:
            self._in_a_row = 0
        self.losses.append(math.nan if self._optimizer.skipped else -outcome.elbo)
        self._variances.append(math.nan if outcome.variance is None else outcome.variance)
        self.bar.update()
        if len(self.losses) % _WINDOW == 0:
            self._measure()
        if plan.checkpoint is not None and len(self.losses) % plan.checkpoint_every == 0:
            save_checkpoint(plan.checkpoint, self.state_dict(), plan.owner)
        if plan.callback is not None:
            plan.callback(len(self.losses), outcome.elbo)

    def _outcome(self, progress: float) -> Outcome:
        """The step's outcome; what fails on an extreme draw counts as not finite."""
        try:
            return self.objective.step(progress)
        except (ConvergenceError, torch.linalg.LinAlgError, ValueError):
            # At the first step it is a mistake in the call, not an extreme draw.
            if not self.losses:
                raise
            return Outcome(math.nan, None)

    def window(self) -> tuple[float, float]:
        """The mean ELBO over the last steps and its standard error."""
        recent = torch.tensor(self.losses[-_WINDOW:], dtype=torch.float64)
        recent = -recent[recent.isfinite()]
        if len(recent) == 0:
            return -math.inf, math.inf
        variances = torch.tensor(self._variances[-_WINDOW:], dtype=torch.float64)
        within = float(variances.nanmean()) / (len(recent) * self.objective.draws)
        between = float(recent.var()) / len(recent) if len(recent) > 1 else math.inf
        return float(recent.mean()), math.sqrt(between if math.isnan(within) else within)

    def _measure(self) -> None:
        elbo, error = self.window()
        self.bar.set_postfix_str(f"ELBO {elbo:.3f} ± {error:.3f}", refresh=False)
        if len(self.losses) < self.plan.measured_from * self.plan.num_steps + _WINDOW:
            return
        if elbo > self._best_elbo:
            self._best_elbo, self.best_step = elbo, len(self.losses)
            self._best = [p.detach().clone() for p in self.parameters]
        if self.plan.tolerance is not None and error < self.plan.tolerance:
            self.stopped = "converged"

    def _done(self) -> bool:
        if self._in_a_row >= _MOST_SKIPPED:
            self.stopped = "non-finite"
            warnings.warn(
                f"{self.plan.owner} stopped after {_MOST_SKIPPED} steps in a row without a finite "
                f"density and gradient; the weights of step {self.best_step} are kept. Try a "
                "smaller learning_rate, or look at the model's density where latents are large.",
                stacklevel=6,
            )
        return self.stopped != "max_steps"

    @torch.no_grad()
    def _keep_best(self) -> None:
        """Goes back to the best window's weights if the last ones are worse beyond its noise."""
        elbo, error = self.window()
        if self._best and not elbo >= self._best_elbo - 3 * error:
            for parameter, best in zip(self.parameters, self._best, strict=True):
                parameter.copy_(best)
        else:
            self.best_step = len(self.losses)

    def state_dict(self) -> dict[str, Any]:
        """All that the further course depends on."""
        return {
            **self.header,
            "parameters": [p.detach().clone() for p in self.parameters],
            "best": {"weights": self._best, "elbo": self._best_elbo, "step": self.best_step},
            "optimizer": self._optimizer.get_state(),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "variances": torch.tensor(self._variances, dtype=torch.float64),
            "skipped": self.skipped,
            "random": random_state(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from what ``state_dict`` returned."""
        for parameter, value in zip(self.parameters, state["parameters"], strict=True):
            parameter.copy_(value)
        best = zip(self.parameters, state["best"]["weights"], strict=False)
        self._best = [value.to(parameter.device) for parameter, value in best]
        self._best_elbo, self.best_step = state["best"]["elbo"], state["best"]["step"]
        self._optimizer.set_state(state["optimizer"])
        self.losses = state["losses"].tolist()
        self._variances = state["variances"].tolist()
        self.skipped = state["skipped"]
        set_random_state(state["random"])
