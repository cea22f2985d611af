"""Continuous flows: ordinary differential equations."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import get_args

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_nf._checks import choice, finite_float, positive_float
from pyro_nf._precision import as_parameters, narrow, widen, without_autocast
from pyro_nf.nn.field import Field, Values
from pyro_nf.transforms._continuous.boundary import (
    OWNER,
    check_event_shape,
    check_signature,
    check_values,
    context_size,
    event_shape,
    refuse_tracing,
)
from pyro_nf.transforms._continuous.choice import (
    Gradient,
    TraceChoice,
    check_gradient,
    choose_gradient,
    choose_trace,
    graph_bytes,
)
from pyro_nf.transforms._continuous.draws import Probe, drawn_end_time, random_vectors
from pyro_nf.transforms._continuous.dynamics import END_TIME, PROBE, Dynamics, Trace
from pyro_nf.transforms._continuous.errors import IntegrationError as IntegrationError
from pyro_nf.transforms._continuous.evaluations import Evaluations
from pyro_nf.transforms._continuous.gradient import Method, integrate
from pyro_nf.transforms._continuous.layout import Columns, Layout, Rows, refuse_captured
from pyro_nf.transforms._continuous.norms import AdjointNorm, Norm
from pyro_nf.transforms._continuous.solver import Direction, Solver
from pyro_nf.transforms._continuous.weighted import warn_if_weighted
from pyro_nf.transforms._contract.bayesian import bind_samples, holds_samples
from pyro_nf.transforms._contract.protocol import FlowTransform


class Continuous(FlowTransform):
    r"""A continuous flow: the solution of an ordinary differential equation.

    .. math::
        \frac{dz}{dt} = f(t, z, c), \quad z(0) = x, \quad z(T) = y, \qquad
        \log\left|\det \frac{\partial y}{\partial x}\right|
        = \int_0^T \operatorname{tr} \frac{\partial f}{\partial z} \, dt

    The field f is any smooth function of the time t, the state z and the context c. Forward
    integrates from the base at t = 0 to the data at t = T, the inverse back; either way one solve
    gives the result and the log-determinant. Both have the solver's error, some ``rtol`` (up to 10
    of them with ``norm="sample"``, 100 in single rows with "rms"), and so has a round trip.

    Cost: one evaluation of the field and its divergence for each stage of each step, 30 to 200 of
    them in either direction; fixed steps cost ``steps`` times the stages of the method.

    **Trace.** "closed" is the field's own formula (:class:`~pyro_nf.nn.FieldMLP` has one up to two
    hidden layers, :class:`~pyro_nf.nn.PotentialField` always); "exact" takes D products of the
    Jacobian; "hutchinson" estimates it without bias by one product with a random vector, drawn
    once a solve; "auto" is closed if it can be, else exact for D ≤ 64 and whenever not training,
    else Hutchinson's. In evaluation ``eval_trace`` holds, so scoring is random only if that asks
    for it. An estimate below importance weights warns.

    **Gradient.** "backprop" differentiates the solver's steps: the fastest, with second
    derivatives, and memory for every evaluation. "checkpoint" keeps the state before each step and
    replays the steps one by one ("dopri5" and the one-step methods with fixed steps): the same
    gradient from the memory of one step. "adjoint" integrates the adjoint equation backwards: the
    gradient of the exact solution, within the tolerances, from the memory of one state whatever
    the solver. "auto" measures the graph of one evaluation, and takes backpropagation if 100 of
    them (with fixed steps, as many as there are) fit into 1 GiB, else "checkpoint", else
    "adjoint". In each, parameters, context and input all get their gradient. A second derivative
    of the last two raises a ``RuntimeError``.

    While ``auxiliary`` collects them, one solve also integrates the side results "kinetic",
    :math:`\int \lVert f \rVert^2 dt`; "jacobian", :math:`\int \lVert \partial f / \partial z
    \rVert_F^2 dt` (exact with trace="exact", else estimated by one random vector); and the
    field's own.

    Warning:
        The steps are common to a batch, so a row's result depends on the others by a few times
        ``rtol``. Neither ``torch.func`` (``vmap``, ``jacrev``) nor forward mode pass through the
        solvers: a ``RuntimeError`` says so. ``torch.compile`` has a break here.

    Args:
        field: A :class:`~pyro_nf.nn.Field`, or any module whose call ``field(t, z)``, with a
            context ``field(t, z, context)``, returns the velocity: z has shape ``(N, *event)``,
            the context ``(N, context_dim)``, t none. It must be smooth in z, and free of dropout
            and batch normalisation.
        input_dim: Number D of dimensions, or the shape of an event; a ``Field`` knows its own.
        context_dim: Size of the context; a ``Field`` knows its own.
        solver: One of torchdiffeq's methods: "dopri5", "dopri8", "bosh3", "fehlberg2",
            "adaptive_heun" choose their steps; "euler", "midpoint", "heun2", "heun3", "rk4",
            "explicit_adams", "implicit_adams" take ``steps`` equal ones.
        steps: Number of steps of such a method.
        rtol: Relative tolerance of the others: an error up to ``atol + rtol * |state|`` a step.
        atol: Absolute tolerance.
        norm: What is held below them, "rms" over the batch, "max", or "sample", the largest root
            mean square over the dimensions of one sample.
        max_steps: Most steps of a solve, rejected ones included.
        eval_solver: The method in evaluation; None: as in training, here and below.
        eval_steps: Its number of steps.
        eval_rtol: Its relative tolerance.
        eval_atol: Its absolute tolerance.
        eval_norm: The norm in evaluation: by default the worst row's error counts there.
        gradient: "auto", "backprop", "checkpoint" or "adjoint".
        adjoint_norm: "full" if the adjoint's steps heed parameters' gradients, or "seminorm".
        trace: "auto", "closed", "exact" or "hutchinson", in training.
        eval_trace: The same in evaluation.
        probe: Distribution of the random vectors, "rademacher" or "gaussian".
        end_time: T > 0.
        learn_end_time: Whether T is a parameter, from ``end_time`` on.
        steer: Half width b of (T - b, T + b), whence each solve in training draws its end time.

    Raises:
        TypeError: If an option is of another type.
        ValueError: If a size is out of range, an option unknown, or two do not go together.
        IntegrationError: From a pass, if the solver gives up or the field is not finite.

    References:
        - Neural ordinary differential equations (Chen et al., 2018), arXiv:1806.07366.
        - FFJORD: Free-form continuous dynamics for scalable reversible generative models
          (Grathwohl et al., 2018), arXiv:1810.01367.
        - How to train your neural ODE (Finlay et al., 2020), arXiv:2002.02798: side results.
        - "Hey, that's not an ODE": Faster ODE adjoints via seminorms (Kidger et al., 2020),
          arXiv:2009.09457.
        - Adaptive checkpoint adjoint method for gradient estimation in neural ODE (Zhuang et al.,
          2020), arXiv:2006.02493.
        - STEER: Simple temporal regularization for neural ODEs (Ghosh et al., 2020),
          arXiv:2006.10711.

    Examples:
        >>> import torch
        >>> from pyro_nf.nn import FieldMLP
        >>> from pyro_nf.transforms import Continuous
        >>> layer = Continuous(FieldMLP(3, (16, 16)))
        >>> y, ladj = layer.forward_and_ladj(torch.zeros(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
        >>> layer.evaluations.forward > 0
        True
    """

    def __init__(
        self,
        field: nn.Module,
        input_dim: int | Sequence[int] | None = None,
        *,
        context_dim: int | None = None,
        solver: str = "dopri5",
        steps: int | None = None,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        norm: Norm = "rms",
        max_steps: int = 1000,
        eval_solver: str | None = None,
        eval_steps: int | None = None,
        eval_rtol: float | None = None,
        eval_atol: float | None = None,
        eval_norm: Norm = "sample",
        gradient: Gradient = "auto",
        adjoint_norm: AdjointNorm = "seminorm",
        trace: TraceChoice = "auto",
        eval_trace: TraceChoice = "auto",
        probe: Probe = "rademacher",
        end_time: float = 1.0,
        learn_end_time: bool = False,
        steer: float = 0.0,
    ) -> None:
        super().__init__()
        owner = OWNER
        self._event = event_shape(field, input_dim)
        self.input_dim = self._event[0] if len(self._event) == 1 else None
        self.domain = self.codomain = constraints.independent(constraints.real, len(self._event))
        self.context_dim = context_size(field, context_dim)
        check_signature(field, self.context_dim)
        self.field = field
        training = Solver(solver, steps, rtol, atol, norm, max_steps, owner)
        evaluation = training.for_evaluation(
            eval_solver, eval_steps, eval_rtol, eval_atol, eval_norm
        )
        self._solvers = {True: training, False: evaluation}
        closed = isinstance(field, Field) and field.closed_divergence
        self._traces = {
            mode: choose_trace(name, wanted, closed=closed, event=self._event, training=mode)
            for mode, name, wanted in ((True, "trace", trace), (False, "eval_trace", eval_trace))
        }
        check_gradient(gradient, self._solvers.values())
        self.gradient: Gradient = gradient
        self.adjoint_norm: AdjointNorm = choice(
            owner, "adjoint_norm", adjoint_norm, get_args(AdjointNorm)
        )
        self.probe: Probe = choice(owner, "probe", probe, get_args(Probe))
        positive_float(owner, "end_time", end_time)
        if not 0 <= finite_float(owner, "steer", steer) < end_time:
            raise ValueError(
                f"{owner} got steer={steer} for end_time={end_time}. Pass a half width from 0 to "
                "below the end time."
            )
        self.steer = float(steer)
        self._end_time = float(end_time)
        self.log_end_time = nn.Parameter(torch.tensor(end_time).log()) if learn_end_time else None
        self._graph_bytes: dict[tuple[object, ...], int] = {}
        self._latest = [Evaluations()]  # in a list, which bound copies of the layer share

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps base to data: one solve from t = 0 to T."""
        return self._solve(x, context, "x", 1)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to base: one solve from t = T to 0."""
        return self._solve(y, context, "y", -1)

    def until(self, time: float) -> Continuous:
        """Creates the layer of the same field that ends at another time, to look inside.

        Args:
            time: Its end time, above 0; between 0 and the layer's own it gives the states and the
                density on the way.

        Returns:
            A layer that shares the field and its parameters.

        Raises:
            TypeError, ValueError: If the time is no positive number.
        """
        part = copy(self)
        # A shallow copy shares the registry, in which the end time must not stay.
        part._parameters = {**self._parameters, "log_end_time": None}
        part._end_time, part.steer = positive_float("until", "time", time), 0.0
        part._latest = [Evaluations()]
        return part

    @property
    def end_time(self) -> float | Tensor:
        """The end time T; a tensor with a gradient if it is learned."""
        return self._end_time if self.log_end_time is None else self.log_end_time.exp()

    @property
    def evaluations(self) -> Evaluations:
        """The evaluations of the field in the latest call, those of its gradient included."""
        return self._latest[0]

    @property
    def side_results(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of what one solve can integrate besides."""
        own = self.field.side_rates if isinstance(self.field, Field) else ()
        return ("kinetic", "jacobian", *own)

    @torch.compiler.disable  # a solver chooses its steps as it goes, under a compiler too
    def _solve(
        self, given: Tensor, context: Tensor | None, name: str, direction: Direction
    ) -> tuple[Tensor, Tensor]:
        """One solve, from values of one side to the other's and the log-determinant."""
        refuse_tracing()
        given = check_values(self, self._event, given, context, name)
        if torch.is_inference_mode_enabled():  # where autograd, and so a divergence, is missing
            with torch.inference_mode(mode=False), torch.no_grad():
                context = None if context is None else context.clone()
                return self._solve(given.clone(), context, name, direction)
        cut = given.ndim - len(self._event)
        batch, samples = given.shape[:cut], given.shape[:cut].numel()
        with without_autocast(given):
            field = bind_samples(self.field) if holds_samples(self.field) else self.field
            layout: Layout = (
                Columns(field) if isinstance(field, Field) else Rows(field, len(self._event))
            )
            z = widen(layout.enter(given))
            side_results = tuple(n for n in self.side_results if self.wanted(n))
            trace = self._traces[self.training]
            values = layout.values(as_parameters(context, self), batch)
            values = {key: widen(value) for key, value in values.items()}
            values |= self._drawn(z, trace, side_results)
            dynamics = Dynamics(
                values, layout.rates, z.shape, samples, layout.features_lead, trace, side_results
            )
            state = dynamics.initial(z)
            if samples:
                state = self._integrate(dynamics, state, direction, layout)
            end, ladj, *integrals = dynamics.split(state)
        for key, integral in zip(side_results, integrals, strict=True):
            self.record(key, narrow(direction * integral, given.dtype).reshape(batch))
        result = layout.leave(narrow(end, given.dtype), given.shape)
        return result, narrow(ladj, given.dtype).reshape(batch)

    def _integrate(
        self, dynamics: Dynamics, state: Tensor, direction: Direction, layout: Layout
    ) -> Tensor:
        solver = self._solvers[self.training]
        if state.is_meta:  # a solver looks at values to choose its steps
            evaluate = dynamics.evaluator(dynamics.values)
            return state + direction * evaluate(state.new_zeros(()), state)
        solver.warn_of_precision(state.dtype)
        method = self._method(dynamics, state, solver)
        if method != "backprop" and torch.is_grad_enabled():
            refuse_captured(OWNER, layout, dynamics.values, dynamics.split(state)[0])
        counter = Evaluations()
        self._latest[0] = counter
        return integrate(dynamics, state, direction, solver, method, self.adjoint_norm, counter)

    def _method(self, dynamics: Dynamics, state: Tensor, solver: Solver) -> Method:
        """How the gradient is computed; what "auto" measures is kept for each size of problem."""
        if self.gradient != "auto" or not torch.is_grad_enabled():
            return "backprop" if self.gradient == "auto" else self.gradient
        size = (*dynamics.shape, dynamics.trace, dynamics.side_results, state.dtype)
        if size not in self._graph_bytes:
            values = dynamics.values
            self._graph_bytes[size] = graph_bytes(
                dynamics.evaluator(values), state, tuple(values.values())
            )
        return choose_gradient(solver, self._graph_bytes[size])

    def _drawn(self, z: Tensor, trace: Trace, side_results: tuple[str, ...]) -> Values:
        """What is drawn or fixed once a solve: the random vectors, the end time."""
        if trace == "hutchinson":
            warn_if_weighted(OWNER)
        values: Values = {}
        if trace == "hutchinson" or ("jacobian" in side_results and trace == "closed"):
            values[PROBE] = random_vectors(self.probe, z)
        # In proportion, so that an end time that is learned stays above 0.
        width = self.steer / self._end_time if self.training else 0.0
        if self.log_end_time is not None or self._end_time != 1 or width:
            values[END_TIME] = drawn_end_time(self.end_time, width, z)
        return values

    def _forward_shape(self, shape: torch.Size) -> torch.Size:
        return check_event_shape(self._event, shape, "x")

    def _inverse_shape(self, shape: torch.Size) -> torch.Size:
        return check_event_shape(self._event, shape, "y")

    @property
    def sign(self) -> int:
        """+1 for one dimension."""
        return 1 if self.input_dim == 1 else super().sign

    def extra_repr(self) -> str:
        """The sizes, the solver and the trace."""
        solver = self._solvers[True]
        how = f"steps={solver.steps}" if solver.steps else f"rtol={solver.rtol:g}"
        context = f", context_dim={self.context_dim}" if self.context_dim else ""
        size = self.input_dim or tuple(self._event)
        return (
            f"input_dim={size}{context}, solver={solver.method!r}, {how}, "
            f"trace={self._traces[True]!r}, gradient={self.gradient!r}"
        )
