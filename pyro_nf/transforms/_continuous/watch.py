"""The function a solver is given: it counts, looks at the first value, and explains failures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_nf.transforms._continuous.errors import IntegrationError
from pyro_nf.transforms._continuous.evaluations import Evaluations
from pyro_nf.transforms._continuous.solver import Solver

Step = tuple[Tensor, Tensor, Tensor]
"""Time, state and size of a step; the size is positive in either direction of time."""

_CURES = (
    'Regularise the field while it is trained (aux_weights={"kinetic": 0.01}), loosen rtol and '
    'atol, take fixed steps (solver="rk4", steps=20), or lower the learning rate.'
)


class Watch:
    """The right-hand side of one solve as torchdiffeq calls it, with its callbacks.

    Args:
        evaluate: The right-hand side.
        solver: The method it is given to.
        end_time: The field's time at the end, to name times in the field's units.
        counter: Where to count.
        accepted: Where to note the steps that make up the result; None: nowhere.
    """

    def __init__(
        self,
        evaluate: Callable[[Tensor, Tensor], Tensor],
        solver: Solver,
        end_time: Tensor | None,
        counter: Evaluations,
        accepted: list[Step] | None = None,
    ) -> None:
        self.evaluate, self.counter = evaluate, counter
        self.phase: Literal["forward", "backward"] = "forward"
        self._solver, self._end_time = solver, end_time
        self._last: Step | None = None
        self._accepted = accepted
        self.callback_step = self._note if solver.adaptive else self._accept
        if solver.adaptive:  # torchdiffeq warns of a callback that a method does not know
            self.callback_accept_step = self._accept
            self.callback_step_adjoint = self._note_adjoint

    def __call__(self, t: Tensor, state: Tensor) -> Tensor:
        if self.phase == "backward":
            self.counter.backward += 1
            return self.evaluate(t, state)
        self.counter.forward += 1
        slope = self.evaluate(t, state)
        if self.counter.forward == 1:
            self._look_at_first(t, state, slope)
        return slope

    def _look_at_first(self, t: Tensor, state: Tensor, slope: Tensor) -> None:
        owner = self._solver.owner
        if bool(slope.isfinite().all()):
            return
        if not bool(state.isfinite().all()):
            raise IntegrationError(
                f"{owner} got values that are not finite, which no solver can integrate. Remove "
                "or mend those rows."
            )
        raise IntegrationError(
            f"{owner} got a derivative that is not finite from its field at the first evaluation, "
            f"at t={self._field_time(t):.4g}. Check the field's weights, and that it is smooth "
            "where the data lie."
        )

    def _note(self, t: Tensor, state: Tensor, dt: Tensor) -> None:
        self._last = t, state, dt

    def _note_adjoint(self, t: Tensor, states: tuple[Tensor, ...], dt: Tensor) -> None:
        self._last = t, states[1], dt  # (time's gradient, state, its gradient, parameters'...)

    def _accept(self, t: Tensor, state: Tensor, dt: Tensor) -> None:
        if self._accepted is not None:
            self._accepted.append((t, state, dt))

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns torchdiffeq's assertions within the block into errors that say what to do."""
        try:
            yield
        except AssertionError as error:
            raise self._explanation(str(error)) from error

    @torch.no_grad()
    def _explanation(self, message: str) -> Exception:
        if self._last is None:
            return AssertionError(message)
        t, state, dt = self._last
        where = f"{self._solver.owner} stopped at t={self._field_time(t):.4g}"
        largest = self.evaluate(t.to(state.dtype), state).abs().max()
        there = f"the last step was {float(dt):.3g}, the largest derivative there is {largest:.3g}"
        if message.startswith("max_num_steps"):
            return IntegrationError(
                f"{where} after max_steps={self._solver.max_steps} steps; {there}. {_CURES} Or "
                "raise max_steps."
            )
        if message.startswith(("underflow", "non-finite")):
            return IntegrationError(
                f"{where}, where no step is small enough for rtol={self._solver.rtol:g} and "
                f"atol={self._solver.atol:g}; {there}. {_CURES}"
            )
        return AssertionError(message)

    def _field_time(self, t: Any) -> float:
        return float(t) * (1.0 if self._end_time is None else float(self._end_time))
