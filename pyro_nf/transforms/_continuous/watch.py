"""The function a solver is given: it counts, looks at the ends, and explains failures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyro_nf.transforms._continuous.errors import IntegrationError
from pyro_nf.transforms._continuous.evaluations import Evaluations
from pyro_nf.transforms._continuous.solver import Solver

Step = tuple[Tensor, Tensor, Tensor]
"""Time, state and size of a step; the size is positive in either direction of time."""

_FAILURES = ("max_num_steps", "underflow", "non-finite")  # how torchdiffeq's messages begin
_CURES = (
    'Regularise the field while it is trained (aux_weights={"kinetic": 0.01}), loosen rtol and '
    'atol, take fixed steps (solver="rk4", steps=20), or lower the learning rate.'
)
_UNSTABLE = (
    " This was the backward solve of the adjoint equation, which can be unstable where the "
    'forward one is not: gradient="checkpoint" does without it.'
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
        self._solver, self._end_time = solver, end_time
        self._last: Step | None = None
        self._accepted = accepted
        self._backward = False

    def __call__(self, t: Tensor, state: Tensor) -> Tensor:
        t = t.detach()  # the adjoint would take a gradient by the time, for which nobody asks
        if self._backward:
            self.counter.backward += 1
            return self.evaluate(t, state)
        self.counter.forward += 1
        slope = self.evaluate(t, state)
        if self.counter.forward == 1:
            self._look_at_first(t, state, slope)
        return slope

    def begin_backward(self) -> None:
        """Says that what follows is for the gradient."""
        self._backward, self._last = True, None

    def look_at_end(self, state: Tensor) -> None:
        """Raises if fixed steps have led to infinity."""
        if not bool(state.isfinite().all()):
            raise IntegrationError(
                f"{self._solver.owner} got values that are not finite from "
                f"solver={self._solver.method!r} with steps={self._solver.steps}: the field is "
                "not finite on the way, or its steps are too long to be stable. Take more steps, "
                'or solver="dopri5", and lower the learning rate.'
            )

    def _look_at_first(self, t: Tensor, state: Tensor, slope: Tensor) -> None:
        owner = self._solver.owner
        if not bool(state.isfinite().all()):
            raise IntegrationError(
                f"{owner} got values that are not finite, which no solver can integrate. Remove "
                "or mend those rows."
            )
        if not bool(slope.isfinite().all()):
            raise IntegrationError(
                f"{owner} got a derivative that is not finite from its field at the first "
                f"evaluation, at t={self._field_time(t):.4g}. Check the field's weights, and that "
                "it is smooth where the data lie."
            )

    def callback_step(self, t: Tensor, state: Tensor, dt: Tensor) -> None:
        """Notes a step before it is taken; one of fixed size is always accepted."""
        self._accept(t, state, dt)

    def _accept(self, t: Tensor, state: Tensor, dt: Tensor) -> None:
        if self._accepted is not None:
            self._accepted.append((t, state, dt))

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns torchdiffeq's assertions within the block into errors that say what to do."""
        try:
            yield
        except AssertionError as error:
            if self._last is None or not str(error).startswith(_FAILURES):
                raise
            raise self._explanation(str(error), *self._last) from error

    @torch.no_grad()
    def _explanation(self, message: str, t: Tensor, state: Tensor, dt: Tensor) -> IntegrationError:
        solver, aside = self._solver, _UNSTABLE if self._backward else ""
        where = f"{solver.owner} stopped at t={self._field_time(t):.4g}"
        largest = self.evaluate(t.to(state.dtype), state).abs().max()
        there = f"the last step was {float(dt):.3g}, the largest derivative there is {largest:.3g}"
        if message.startswith("max_num_steps"):
            return IntegrationError(
                f"{where} after max_steps={solver.max_steps} steps; {there}.{aside} {_CURES} Or "
                "raise max_steps."
            )
        if dt == 0:  # what torchdiffeq makes of an error estimate that is no number
            return IntegrationError(
                f"{where}: the field or its divergence is not finite on the step from there; the "
                f"largest derivative before is {largest:.3g}.{aside} Check that it is smooth "
                "wherever the solution may go: no square roots, logarithms or quotients near 0."
            )
        return IntegrationError(
            f"{where}, where no step is small enough for rtol={solver.rtol:g} and "
            f"atol={solver.atol:g}; {there}.{aside} {_CURES}"
        )

    def _field_time(self, t: Any) -> float:
        return float(t) * (1.0 if self._end_time is None else float(self._end_time))


class _AdaptiveWatch(Watch):
    """With the callbacks of methods that choose their steps."""

    def callback_step(self, t: Tensor, state: Tensor, dt: Tensor) -> None:
        self._last = t, state, dt

    def callback_accept_step(self, t: Tensor, state: Tensor, dt: Tensor) -> None:
        self._accept(t, state, dt)

    def callback_step_adjoint(self, t: Tensor, states: tuple[Tensor, ...], dt: Tensor) -> None:
        # (time's gradient, state, its gradient, parameters'...); a solve that went backwards
        # did so on the negative axis of time.
        self._last = t.abs(), states[1], dt


def watch_solve(
    evaluate: Callable[[Tensor, Tensor], Tensor],
    solver: Solver,
    end_time: Tensor | None,
    counter: Evaluations,
    accepted: list[Step] | None = None,
) -> Watch:
    """Creates the watch for a method: torchdiffeq warns of callbacks that it does not know."""
    kind = _AdaptiveWatch if solver.adaptive else Watch
    return kind(evaluate, solver, end_time, counter, accepted)
