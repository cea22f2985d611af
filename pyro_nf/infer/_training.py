"""The training loop: steps, validation, early stopping, and the best weights kept."""

from __future__ import annotations

import copy
import math
import os
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_nf._modes import in_mode
from pyro_nf.infer._data import Batches, HeldOut
from pyro_nf.infer._interrupt import interrupt_after
from pyro_nf.infer._objective import Objective
from pyro_nf.infer._optimizer import JointOptimizer
from pyro_nf.infer._options import Callback
from pyro_nf.infer._support import Density
from pyro_nf.infer.checkpoint import random_state, save_checkpoint, set_random_state
from pyro_nf.infer.result import FitResult, StopReason

_MOST_SKIPPED = 10


@dataclass(frozen=True)
class Plan:
    """How long to train, when to measure and save, and who asked for it."""

    owner: str
    max_steps: int
    validate_every: int
    patience: int | None
    checkpoint: str | os.PathLike[str] | None
    checkpoint_every: int
    fingerprint: dict[str, Any] = field(default_factory=dict)


class Trainer:
    """A fit in progress; all that decides its further course is in ``state_dict``."""

    def __init__(
        self,
        flow: Density,
        batches: Batches,
        held_out: HeldOut | None,
        optimizer: JointOptimizer,
        objective: Objective,
        plan: Plan,
    ) -> None:
        self.flow, self.plan, self.result = flow, plan, FitResult(unit=objective.unit)
        self._batches, self._held_out, self._optimizer = batches, held_out, optimizer
        self._objective = objective
        self._losses: dict[str, float] = {}
        self._best: dict[str, Any] = {}
        self._skipped_in_a_row, self._warned = 0, False
        self._seconds_before = 0.0
        self._between_steps = False  # where alone the state is that of a whole number of steps

    def run(self, callback: Callback | None, progress: bool | None) -> FitResult:  # noqa: FBT001
        """Trains to the end; the flow leaves with the best weights, whatever happens."""
        started = time.perf_counter()
        result, plan = self.result, self.plan
        try:
            with in_mode(self.flow, "train"):
                if not self._best:
                    self._measure()
                self._between_steps = True
                with tqdm(
                    total=plan.max_steps,
                    initial=result.steps,
                    disable=None if progress is None else not progress,
                    desc=plan.owner,
                ) as bar:
                    while (stop := self._reason_to_stop()) is None:
                        # Only a whole step can be continued exactly, so only it can be saved.
                        with nullcontext() if plan.checkpoint is None else interrupt_after():
                            self._advance(started)
                        bar.update()
                        if result.steps % plan.validate_every == 0:
                            bar.set_postfix_str(f"loss {result.best_loss:.3f}", refresh=False)
                        if callback is not None:
                            callback(result.steps, dict(self._losses))
                result.stopped = stop
                self._save(started)
        except KeyboardInterrupt:
            result.stopped = "interrupted"
            if self._between_steps:
                self._save(started)
        finally:
            result.seconds = self._seconds(started)
            self._leave_best()
        return result

    def _leave_best(self) -> None:
        """Leaves the best weights in the flow; without held-out rows, the last sound ones."""
        if self._best and (self._held_out is not None or self.result.stopped == "non-finite"):
            self.flow.load_state_dict(self._best)
        else:
            self.result.best_step, self.result.best_loss = self.result.steps, self._recent_loss()

    def _reason_to_stop(self) -> StopReason | None:
        result, plan = self.result, self.plan
        if self._skipped_in_a_row >= _MOST_SKIPPED:
            warnings.warn(
                f"{plan.owner} stopped after {_MOST_SKIPPED} steps in a row without a finite loss "
                f"and gradient. The weights of step {result.best_step} are kept; try a smaller "
                "learning_rate.",
                stacklevel=5,
            )
            return "non-finite"
        if result.steps >= plan.max_steps:
            return "max_steps"
        if self._held_out is None or plan.patience is None:
            return None
        if result.steps - result.best_step >= plan.patience:
            return "early"
        return None

    def _advance(self, started: float) -> None:
        """Takes one step, and what is due after it."""
        result, plan = self.result, self.plan
        self._losses, self._between_steps = {}, False
        step = self._objective.step(*self._batches.next())
        self._losses = step.losses
        result.train_losses.append(self._losses["train"])
        if step.evaluations is not None:
            result.evaluations.append(step.evaluations)
        result.steps += 1
        self._count_skipped()
        if result.steps % plan.validate_every == 0 or result.steps == plan.max_steps:
            self._measure()
        self._between_steps = True
        if result.steps % plan.checkpoint_every == 0:
            self._save(started)

    def _count_skipped(self) -> None:
        if not self._optimizer.skipped:
            self._skipped_in_a_row = 0
            return
        self._skipped_in_a_row += 1
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.plan.owner} skipped step {self.result.steps}, whose loss or gradient is "
                "not finite. Further such steps are skipped without a word.",
                stacklevel=6,
            )

    def _measure(self) -> None:
        """Measures how well the weights do, and keeps them: the best, or the last sound ones."""
        result = self.result
        if self._held_out is None:
            loss = self._recent_loss()
            better = math.isfinite(loss)
        else:
            with in_mode(self.flow, "eval"):
                loss = self._objective.held_out(self._held_out.batches())
            result.validation_losses.append((result.steps, loss))
            self._losses["validation"] = loss
            better = not loss >= result.best_loss and not math.isnan(loss)
        if better or not self._best:
            result.best_loss, result.best_step = loss, result.steps
            self._best = _snapshot(self.flow.state_dict())

    def _recent_loss(self) -> float:
        """The mean training loss since the last measurement; NaN before the first step."""
        window = self.result.train_losses[-self.plan.validate_every :]
        return sum(window) / len(window) if window else math.nan

    def _seconds(self, started: float) -> float:
        return self._seconds_before + time.perf_counter() - started

    def _save(self, started: float) -> None:
        if self.plan.checkpoint is not None:
            self.result.seconds = self._seconds(started)
            save_checkpoint(self.plan.checkpoint, self.state_dict(), self.plan.owner)

    def state_dict(self) -> dict[str, Any]:
        """Returns all that the further course depends on."""
        result = self.result
        return {
            "fingerprint": self.plan.fingerprint,
            "flow": self.flow.state_dict(),
            "best": {"weights": self._best, "loss": result.best_loss, "step": result.best_step},
            "optimizer": self._optimizer.get_state(),
            "batches": self._batches.state_dict(),
            "random": random_state(),
            "history": {
                "train": torch.tensor(result.train_losses, dtype=torch.float64, device="cpu"),
                "validation": [list(pair) for pair in result.validation_losses],
                "evaluations": torch.tensor(result.evaluations, dtype=torch.int64, device="cpu"),
            },
            "skipped_in_a_row": self._skipped_in_a_row,
            "seconds": result.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from what ``state_dict`` returned."""
        for name, value in self.plan.fingerprint.items():
            if state["fingerprint"].get(name) != value:
                raise ValueError(
                    f"{self.plan.owner} cannot resume: the checkpoint was made with {name}="
                    f"{state['fingerprint'].get(name)}, this fit has {name}={value}. "
                    "Pass the same data and options, or resume=False."
                )
        result = self.result
        self.flow.load_state_dict(state["flow"])
        device = {name: t.device for name, t in self.flow.state_dict(keep_vars=True).items()}
        self._best = {
            name: t.to(device[name]) if isinstance(t, Tensor) else t
            for name, t in state["best"]["weights"].items()
        }
        result.best_loss, result.best_step = state["best"]["loss"], state["best"]["step"]
        self._optimizer.set_state(state["optimizer"])
        self._batches.load_state_dict(state["batches"])
        result.train_losses = state["history"]["train"].tolist()
        result.validation_losses = [(int(s), loss) for s, loss in state["history"]["validation"]]
        counts = state["history"]["evaluations"].tolist()
        result.evaluations = [(forward, backward) for forward, backward in counts]
        result.steps = len(result.train_losses)
        self._skipped_in_a_row = state["skipped_in_a_row"]
        self._seconds_before = state["seconds"]
        set_random_state(state["random"])


def _snapshot(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in state.items()
    }
