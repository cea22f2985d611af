"""What the training loop asks of an objective."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from torch import Tensor

from pyro_nf.infer._data import Batch
from pyro_nf.infer._optimizer import JointOptimizer
from pyro_nf.infer.result import Unit


class Step(NamedTuple):
    """What is worth to be kept of one step.

    Attributes:
        losses: The loss under ``"train"``, and whatever else the objective measures, by name.
        evaluations: Evaluations of vector fields by the solvers, forward and backward; None
            where nothing is solved.
    """

    losses: dict[str, float]
    evaluations: tuple[int, int] | None = None


class Objective(Protocol):
    """What a fit minimises: it takes the steps and scores the rows held out.

    Attributes:
        unit: Unit of the losses.
    """

    unit: Unit

    def check(self, rows: Batch) -> None:
        """Raises where the objective cannot be computed on some first rows."""

    def step(self, x: Tensor, context: Tensor | None) -> Step:
        """Computes the loss of a batch and its gradient, and calls the optimiser."""

    def held_out(self, batches: Iterable[Batch]) -> float:
        """The mean loss over rows, the same for the same weights; the flow is in evaluation."""


MakeObjective = Callable[[JointOptimizer], Objective]
