"""The choices that "auto" makes: of the gradient by its memory, of the trace by the dimension."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from pyro_nf._checks import choice
from pyro_nf.transforms._continuous.boundary import OWNER
from pyro_nf.transforms._continuous.dynamics import Trace
from pyro_nf.transforms._continuous.gradient import Method
from pyro_nf.transforms._continuous.solver import ONE_STEP, Solver

Gradient = Literal["auto", "backprop", "checkpoint", "adjoint"]
TraceChoice = Literal["auto", "closed", "exact", "hutchinson"]

EXACT_IN_TRAINING = 64
BACKPROP_BYTES = 2**30
ASSUMED_EVALUATIONS = 100
_STAGES = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3}


def choose_trace(
    name: str, wanted: TraceChoice, *, closed: bool, event: torch.Size, training: bool
) -> Trace:
    """The method that ``wanted`` stands for, the option called ``name``."""
    choice(OWNER, name, wanted, get_args(TraceChoice))
    if wanted == "closed" and not closed:
        raise ValueError(
            f'{OWNER} got {name}="closed" for a field whose divergence has no closed form here. '
            'Pass "auto", "exact" or "hutchinson", or a FieldMLP of at most two hidden layers.'
        )
    if wanted != "auto":
        return wanted
    if closed:
        return "closed"
    return "hutchinson" if training and event.numel() > EXACT_IN_TRAINING else "exact"


def check_gradient(wanted: Gradient, solvers: Iterable[Solver]) -> None:
    """Raises if the gradient is unknown, or cannot be had with a solver."""
    choice(OWNER, "gradient", wanted, get_args(Gradient))
    for solver in solvers:
        if wanted == "checkpoint" and not can_replay(solver):
            raise ValueError(
                f'{OWNER} got gradient="checkpoint" for solver={solver.method!r}, whose steps it '
                'cannot replay. Pass "dopri5", a one-step method such as "rk4", or '
                'gradient="adjoint".'
            )


def can_replay(solver: Solver) -> bool:
    """Whether "checkpoint" knows the steps of the method."""
    return solver.method in ("dopri5", *ONE_STEP)


def choose_gradient(solver: Solver, bytes_an_evaluation: int) -> Method:
    """Backpropagation where its graph fits, else the cheaper of the two that need none."""
    evaluations = ASSUMED_EVALUATIONS
    if solver.steps is not None:
        evaluations = solver.steps * _STAGES.get(solver.method, 4)
    if evaluations * bytes_an_evaluation <= BACKPROP_BYTES:
        return "backprop"
    return "checkpoint" if can_replay(solver) else "adjoint"


def graph_bytes(
    evaluate: Callable[[Tensor, Tensor], Tensor], state: Tensor, given: tuple[Tensor, ...]
) -> int:
    """The memory that the graph of one evaluation holds, besides the given tensors."""
    seen = {tensor.untyped_storage().data_ptr() for tensor in given}
    # A solver's step keeps about as many sums of slopes as there are slopes.
    total = 3 * state.untyped_storage().nbytes()

    def note(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(note, lambda tensor: tensor):
        graph = evaluate(state.new_zeros(()), state.detach().requires_grad_())
    del graph  # kept until here, so that no storage was freed and counted again
    return total
