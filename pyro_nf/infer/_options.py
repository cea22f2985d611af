"""The options that all fits of a flow to data share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pyro_nf._checks import non_negative_int, positive_float, positive_int
from pyro_nf.infer._optimizer import MakeOptimizer, Schedule, schedule_factor
from pyro_nf.infer.checkpoint import load_checkpoint

Callback = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a fit, checked. Their meaning is told by :func:`pyro_nf.infer.fit_density`.

    Attributes:
        owner: The function that got them, which messages name.
    """

    owner: str
    validation: Any
    max_steps: int
    batch_size: int | None
    learning_rate: float
    schedule: Schedule
    clip_norm: float | None
    optimizer: MakeOptimizer | None
    validate_every: int
    patience: int | None
    seed: int
    device: torch.device | str | None
    progress: bool | None
    callback: Callback | None
    checkpoint: str | os.PathLike[str] | None
    checkpoint_every: int
    resume: bool

    def __post_init__(self) -> None:
        """Checks every option that needs no data."""
        owner = self.owner
        for name, count in (
            ("max_steps", self.max_steps),
            ("validate_every", self.validate_every),
            ("checkpoint_every", self.checkpoint_every),
            ("batch_size", 1 if self.batch_size is None else self.batch_size),
            ("patience", 1 if self.patience is None else self.patience),
        ):
            positive_int(owner, name, count)
        non_negative_int(owner, "seed", self.seed)
        positive_float(owner, "learning_rate", self.learning_rate)
        if self.clip_norm is not None:
            positive_float(owner, "clip_norm", self.clip_norm)
        self.rate_factor()
        if self.resume and self.checkpoint is None:
            raise ValueError(
                f"{owner} got resume=True without a checkpoint. Pass checkpoint=path."
            )

    def rate_factor(self) -> Callable[[int], float]:
        """The factor on the learning rate as a function of the step."""
        return schedule_factor(self.owner, self.schedule, self.max_steps)

    def saved_state(self) -> dict[str, Any] | None:
        """What to continue from, if that was asked for and exists."""
        if not self.resume or self.checkpoint is None or not os.path.exists(self.checkpoint):
            return None
        return load_checkpoint(self.checkpoint, self.owner)
