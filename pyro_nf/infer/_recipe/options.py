"""The options that fits of a guide and of a target share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyro_nf._checks import non_negative_int, positive_float, positive_int
from pyro_nf.infer.checkpoint import load_checkpoint


@dataclass(frozen=True)
class Annealing:
    """The way from a wide density to the posterior.

    Args:
        inflation: How many times wider the wide density is than the Gaussian at the bulk.
        share: Share of the flow's steps over which the weight of the posterior rises to 1.

    Raises:
        ValueError: If ``inflation`` is not above 1 or ``share`` not within (0, 1].

    Examples:
        >>> from pyro_nf.infer import Annealing
        >>> Annealing(inflation=10.0)
        Annealing(inflation=10.0, share=0.6)
    """

    inflation: float = 10.0
    share: float = 0.6

    def __post_init__(self) -> None:
        """Checks the options."""
        if positive_float("Annealing", "inflation", self.inflation) <= 1:
            raise ValueError(f"Annealing got inflation={self.inflation}. Pass a number above 1.")
        if positive_float("Annealing", "share", self.share) > 1:
            raise ValueError(f"Annealing got share={self.share}. Pass a number in (0, 1].")


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """The options of a fit, checked. Their meaning is told by :func:`pyro_nf.infer.fit_guide`.

    Attributes:
        owner: The function that got them, which messages name.
    """

    owner: str
    num_steps: int
    num_particles: int
    learning_rate: float
    clip_norm: float | None
    starts: int
    restarts: int
    annealing: Annealing | None
    tolerance: float | None
    final_draws: int
    seed: int
    checkpoint: str | os.PathLike[str] | None
    checkpoint_every: int
    resume: bool
    callback: Callable[[int, float], None] | None

    def __post_init__(self) -> None:
        """Checks every option that needs no model."""
        owner = self.owner
        for name in ("num_steps", "num_particles", "restarts", "final_draws", "checkpoint_every"):
            positive_int(owner, name, getattr(self, name))
        non_negative_int(owner, "starts", self.starts)
        non_negative_int(owner, "seed", self.seed)
        positive_float(owner, "learning_rate", self.learning_rate)
        for name in ("clip_norm", "tolerance"):
            if getattr(self, name) is not None:
                positive_float(owner, name, getattr(self, name))
        if self.annealing is not None and not self.starts:
            raise ValueError(
                f"{owner} got annealing with starts=0; the wide density is made from the Gaussian "
                "at the posterior's bulk. Pass starts=4, say."
            )
        if self.checkpoint is not None and self.restarts > 1:
            raise ValueError(
                f"{owner} got a checkpoint with restarts={self.restarts}; only one run can be "
                "continued. Pass restarts=1, or no checkpoint."
            )
        if self.resume and self.checkpoint is None:
            raise ValueError(
                f"{owner} got resume=True without a checkpoint. Pass checkpoint=path."
            )

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be continued."""
        return {
            "num_steps": self.num_steps,
            "num_particles": self.num_particles,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "annealing": None
            if self.annealing is None
            else [self.annealing.inflation, self.annealing.share],
        }

    def saved_state(self) -> dict[str, Any] | None:
        """What to continue from, if that was asked for and exists."""
        if not self.resume or self.checkpoint is None or not os.path.exists(self.checkpoint):
            return None
        state = load_checkpoint(self.checkpoint, self.owner)
        for name, value in self.fingerprint().items():
            if state["fingerprint"].get(name) != value:
                raise ValueError(
                    f"{self.owner} cannot resume: the checkpoint was made with {name}="
                    f"{state['fingerprint'].get(name)}, this fit has {name}={value}. "
                    "Pass the same options, or resume=False."
                )
        return state
