"""What a fit returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Unit = Literal["nats per datum", "squared velocity per datum"]
StopReason = Literal["max_steps", "early", "non-finite", "interrupted"]


@dataclass(repr=False)
class FitResult:
    """The course of a fit.

    Attributes:
        train_losses: Loss of each step's batch; NaN or infinite where a step was skipped.
        validation_losses: Pairs ``(steps taken, mean loss over the held-out rows)``.
        best_step: Steps taken when the weights that were kept were reached.
        best_loss: Their loss: on the held-out rows, or without such the mean over the last
            training batches; NaN if there was no step.
        steps: Steps taken.
        seconds: Wall-clock time, resumed parts included.
        stopped: Why the fit ended: ``"max_steps"``, ``"early"`` (no better validation loss for
            ``patience`` steps), ``"non-finite"`` or ``"interrupted"``.
        evaluations: For each step a pair: how often its solves evaluated the vector fields, forth
            and for the gradient, in all continuous layers of the flow together (a layer that is
            called twice in a step counts by its last call). Empty where nothing is solved.
        unit: Unit of all losses.

    Examples:
        >>> from pyro_nf.infer import FitResult
        >>> FitResult([1.5, 1.25], [(0, 1.75), (2, 1.125)], 2, 1.125, 2, 0.5, "max_steps")
        FitResult(best_loss=1.1250 at step 2 of 2, stopped='max_steps', seconds=0.5)
    """

    train_losses: list[float] = field(default_factory=list)
    validation_losses: list[tuple[int, float]] = field(default_factory=list)
    best_step: int = 0
    best_loss: float = float("nan")
    steps: int = 0
    seconds: float = 0.0
    stopped: StopReason = "max_steps"
    evaluations: list[tuple[int, int]] = field(default_factory=list)
    unit: Unit = "nats per datum"

    def __repr__(self) -> str:
        return (
            f"FitResult(best_loss={self.best_loss:.4f} at step {self.best_step} of {self.steps}, "
            f"stopped={self.stopped!r}, seconds={self.seconds:.1f}{self._late_evaluations()})"
        )

    def _late_evaluations(self) -> str:
        """The mean counts of the last steps, where there are some."""
        late = self.evaluations[-100:]
        if not late:
            return ""
        forward, backward = (sum(counts) / len(late) for counts in zip(*late, strict=True))
        return f", evaluations={forward:.0f}+{backward:.0f}"

    def plot(self, ax: Any = None) -> Any:
        """Draws the curves of training and validation loss; see :func:`pyro_nf.plot.losses`.

        Args:
            ax: Matplotlib axes to draw into; None makes new ones.

        Returns:
            The axes.
        """
        from pyro_nf import plot  # here, because the core does without matplotlib

        return plot.losses(self, ax=ax)
