"""A solve with its gradient: through the solver, by the adjoint equation, or step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, cast

import torch
import torchdiffeq
from torch import Tensor

from pyro_nf._precision import without_autocast
from pyro_nf.transforms._continuous.dormand_prince import dormand_prince_step
from pyro_nf.transforms._continuous.dynamics import END_TIME, Dynamics
from pyro_nf.transforms._continuous.errors import IntegrationError
from pyro_nf.transforms._continuous.evaluations import Evaluations
from pyro_nf.transforms._continuous.norms import AdjointNorm, adjoint_error_norm
from pyro_nf.transforms._continuous.once import once_differentiable, refuse_batched
from pyro_nf.transforms._continuous.solver import Direction, Solver
from pyro_nf.transforms._continuous.watch import Step, Watch, watch_solve

Method = Literal["backprop", "adjoint", "checkpoint"]


def integrate(
    dynamics: Dynamics,
    state: Tensor,
    direction: Direction,
    solver: Solver,
    method: Method,
    adjoint_norm: AdjointNorm,
    counter: Evaluations,
) -> Tensor:
    """Integrates a flat state from one side to the other.

    Args:
        dynamics: What is integrated.
        state: The flat state at the beginning.
        direction: 1 from the base to the data, -1 back.
        solver: The method.
        method: How the gradient is computed, if one is.
        adjoint_norm: Whether the steps of the adjoint equation heed the parameters' gradients.
        counter: Where evaluations are counted.

    Returns:
        The flat state at the end.

    Raises:
        IntegrationError: If the solver gives up.
    """
    if method == "backprop" or not torch.is_grad_enabled():
        watch = watch_solve(
            dynamics.evaluator(dynamics.values), solver, dynamics.values.get(END_TIME), counter
        )
        return _solve(watch, state, direction, solver, solver.options(dynamics, _end(direction)))
    solve = {"adjoint": _Adjoint, "checkpoint": _Checkpoint}[method](
        dynamics, direction, solver, adjoint_norm, counter
    )
    return cast("Tensor", _Solve.apply(solve, state, *dynamics.values.values()))


def _solve(
    watch: Watch, state: Tensor, direction: Direction, solver: Solver, options: dict[str, Any]
) -> Tensor:
    with watch.explained():
        end = torchdiffeq.odeint(
            watch,
            state,
            _times(state, direction),
            rtol=solver.rtol,
            atol=solver.atol,
            method=solver.method,
            options=options,
        )[-1]
    watch.look_at_end(end)
    return end


def _times(state: Tensor, direction: Direction) -> Tensor:
    return state.new_tensor([1 - _end(direction), _end(direction)])


def _end(direction: Direction) -> float:
    return 1.0 if direction == 1 else 0.0


class _HeldSolve(Protocol):
    """A solve on its own leaves, whose gradient is computed later."""

    def forward(self, state: Tensor) -> Tensor: ...

    def backward(self, gradient: Tensor) -> list[Tensor | None]: ...


class _Solve(torch.autograd.Function):
    """A solve as one node of the graph, with inputs ``(state, *values)``."""

    @staticmethod
    def forward(solve: _HeldSolve, state: Tensor, *values: Tensor) -> Tensor:
        return solve.forward(state.detach())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.solve, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors  # raises if a weight was changed in place meanwhile
        refuse_batched(gradients[0])
        with without_autocast(gradients[0]):
            results = ctx.solve.backward(gradients[0].detach())
        return None, *once_differentiable(results, (*gradients, *inputs))


class _Leaves:
    """The values of a solve as leaves of a graph of their own.

    Every evaluation, forward and backward, reads these and nothing else, so a gradient with
    respect to them is whole, and none is counted twice.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        direction: Direction,
        solver: Solver,
        counter: Evaluations,
        accepted: list[Step] | None = None,
    ) -> None:
        self.dynamics, self.direction, self.solver = dynamics, direction, solver
        self.values = {
            name: value.detach().requires_grad_(value.requires_grad)
            for name, value in dynamics.values.items()
        }
        self.trained = [value for value in self.values.values() if value.requires_grad]
        self.watch = watch_solve(
            dynamics.evaluator(self.values),
            solver,
            self.values.get(END_TIME),
            counter,
            accepted,
        )

    def spread(self, of_trained: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The gradients of the trained values, with None between for the others."""
        left = iter(of_trained)
        return [next(left) if value.requires_grad else None for value in self.values.values()]


class _Adjoint:
    """The gradient by the adjoint equation, integrated backwards: memory of one state."""

    def __init__(
        self,
        dynamics: Dynamics,
        direction: Direction,
        solver: Solver,
        adjoint_norm: AdjointNorm,
        counter: Evaluations,
    ) -> None:
        self._leaves = _Leaves(dynamics, direction, solver, counter)
        self._options = solver.options(dynamics, _end(direction))
        # What went backwards in time did so on the negative axis for torchdiffeq.
        back_at = 0.0 if direction == 1 else -1.0
        self._adjoint_options = solver.options(dynamics, back_at)
        if solver.adaptive:
            norm = self._adjoint_options["norm"]
            self._adjoint_options["norm"] = adjoint_error_norm(adjoint_norm, norm)

    def forward(self, state: Tensor) -> Tensor:
        """Solves, and keeps the two ends of the solution."""
        leaves, solver = self._leaves, self._leaves.solver
        with torch.enable_grad(), leaves.watch.explained():
            self._start = state.requires_grad_()
            self._end = torchdiffeq.odeint_adjoint(
                leaves.watch,
                self._start,
                _times(state, leaves.direction),
                rtol=solver.rtol,
                atol=solver.atol,
                method=solver.method,
                options=self._options,
                adjoint_options=self._adjoint_options,
                adjoint_params=tuple(leaves.trained),
            )[-1]
        leaves.watch.look_at_end(self._end)
        return self._end.detach()

    def backward(self, gradient: Tensor) -> list[Tensor | None]:
        """Solves the adjoint equation.

        It is linear, so its solution is scaled to 1 at the beginning: the tolerances then mean the
        same for the sum over many rows and for their mean.
        """
        leaves = self._leaves
        leaves.watch.begin_backward()
        scale = gradient.square().mean().sqrt()
        if not bool(scale.isfinite()):
            raise IntegrationError(
                f"{leaves.solver.owner} got a gradient that is not finite from the loss. Look for "
                "what makes the loss infinite or NaN."
            )
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        with torch.enable_grad(), leaves.watch.explained():
            gradients = torch.autograd.grad(
                self._end,
                [self._start, *leaves.trained],
                gradient / scale,
                retain_graph=True,
                materialize_grads=True,
            )
        of_state, *of_trained = (scale * g for g in gradients)
        return [of_state, *leaves.spread(of_trained)]


class _Checkpoint:
    """The gradient of the solver's own steps, replayed from the last: a graph of one step."""

    def __init__(
        self,
        dynamics: Dynamics,
        direction: Direction,
        solver: Solver,
        adjoint_norm: AdjointNorm,
        counter: Evaluations,
    ) -> None:
        del adjoint_norm
        self._accepted: list[Step] = []
        self._leaves = _Leaves(dynamics, direction, solver, counter, self._accepted)
        self._options = solver.options(dynamics, _end(direction))

    def forward(self, state: Tensor) -> Tensor:
        """Solves without a graph, and keeps the state before each accepted step."""
        leaves = self._leaves
        self._accepted.clear()
        return _solve(leaves.watch, state, leaves.direction, leaves.solver, self._options)

    def backward(self, gradient: Tensor) -> list[Tensor | None]:
        """Replays each step with a graph, and differentiates it."""
        leaves = self._leaves
        leaves.watch.begin_backward()
        total = [torch.zeros_like(value) for value in leaves.trained]
        for t, before, dt in reversed(self._accepted):
            with torch.enable_grad():
                state = before.detach().requires_grad_()
                after = self._replay(float(t), state, leaves.direction * float(dt))
                gradient, *of_trained = torch.autograd.grad(
                    after, [state, *leaves.trained], gradient, materialize_grads=True
                )
            if total:
                torch._foreach_add_(total, of_trained)
        return [gradient, *leaves.spread(total)]

    def _replay(self, t: float, state: Tensor, dt: float) -> Tensor:
        leaves = self._leaves
        if leaves.solver.method == "dopri5":
            return dormand_prince_step(leaves.watch, t, state, dt)
        ends = state.new_tensor([t, t + dt])
        # Without the callbacks of the watch, which would note the step once more.
        call: Callable[[Tensor, Tensor], Tensor] = leaves.watch.__call__
        return torchdiffeq.odeint(call, state, ends, method=leaves.solver.method)[-1]
