"""Torchdiffeq's solvers with the options of a continuous layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pyro_nf._checks import choice, positive_float, positive_int
from pyro_nf.transforms._continuous.dynamics import Dynamics
from pyro_nf.transforms._continuous.norms import Norm, error_norm

Direction = Literal[1, -1]

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
ONE_STEP = ("euler", "midpoint", "heun2", "heun3", "rk4")
_MULTISTEP = ("explicit_adams", "implicit_adams")
SOLVERS = (*ADAPTIVE, *ONE_STEP, *_MULTISTEP)


@dataclass(frozen=True)
class Solver:
    """A method of torchdiffeq, and how finely it steps.

    Args:
        method: One of torchdiffeq's, adaptive or with fixed steps.
        steps: Number of steps of a method with fixed steps; None for the adaptive ones.
        rtol, atol: Tolerances of the adaptive methods, in the units of the state.
        norm: What of the error is held below the tolerances: the root mean square over all
            numbers, the largest, or the largest root mean square of a sample.
        max_steps: Most steps of an adaptive method, rejected ones included.
        owner: Who asks, for the messages.
        prefix: What the names of the user's options begin with.
    """

    method: str
    steps: int | None
    rtol: float
    atol: float
    norm: Norm
    max_steps: int
    owner: str
    prefix: Literal["", "eval_"] = ""

    def __post_init__(self) -> None:
        """Checks the options."""
        owner, eval_ = self.owner, self.prefix
        choice(owner, f"{eval_}solver", self.method, SOLVERS)
        choice(owner, f"{eval_}norm", self.norm, get_args(Norm))
        positive_float(owner, f"{eval_}rtol", self.rtol)
        positive_float(owner, f"{eval_}atol", self.atol)
        positive_int(owner, "max_steps", self.max_steps)
        if self.adaptive and self.steps is not None:
            raise ValueError(
                f"{owner} got {eval_}steps={self.steps} for {eval_}solver={self.method!r}, which "
                f"chooses its own. Leave {eval_}steps away, or pass one of {', '.join(ONE_STEP)}."
            )
        if not self.adaptive:
            if self.steps is None:
                raise ValueError(
                    f"{owner} got {eval_}solver={self.method!r} without {eval_}steps. Pass "
                    f"{eval_}steps=8, say: the number of equal steps from one side to the other."
                )
            positive_int(owner, f"{eval_}steps", self.steps)

    def for_evaluation(
        self,
        method: str | None,
        steps: int | None,
        rtol: float | None,
        atol: float | None,
        norm: Norm,
    ) -> Solver:
        """Creates the solver of evaluation, where None keeps what this one has."""
        return replace(
            self,
            method=method or self.method,
            steps=steps if method or steps else self.steps,
            rtol=self.rtol if rtol is None else rtol,
            atol=self.atol if atol is None else atol,
            norm=norm,
            prefix="eval_",
        )

    @property
    def adaptive(self) -> bool:
        """Whether the method chooses its steps by the tolerances."""
        return self.method in ADAPTIVE

    def options(self, dynamics: Dynamics, end: float) -> dict[str, Any]:
        """Torchdiffeq's options for one solve that ends at this time."""
        if not self.adaptive:
            options: dict[str, Any] = {"grid_constructor": _equal_steps(self.steps or 1)}
            if self.method in _MULTISTEP:
                # Fourth order: torchdiffeq's twelfth is unstable, and silently so, at any step
                # that would be worth its order.
                options["max_order"] = 5
            return options
        # A step that ends at the end: torchdiffeq would step past it and interpolate.
        return {
            "norm": error_norm(self.norm, dynamics),
            "step_t": torch.tensor([end], dtype=torch.float64, device="cpu"),
            "max_num_steps": self.max_steps,
        }

    def warn_of_precision(self, dtype: torch.dtype) -> None:
        """Warns if rounding alone is larger than a tolerance."""
        eps = torch.finfo(dtype).eps
        if self.adaptive and min(self.rtol, self.atol) < eps:
            warnings.warn(
                f"{self.owner} has rtol={self.rtol:g} and atol={self.atol:g}; {dtype} resolves "
                f"{eps:.1g}. Its error cannot be seen to fall below that: the solver takes ever "
                "smaller steps. Compute in float64, or raise the tolerances.",
                stacklevel=2,
            )


def _equal_steps(count: int) -> Callable[[Any, Any, Tensor], Tensor]:
    def grid(func: Any, y0: Any, t: Tensor) -> Tensor:
        del func, y0
        parts = torch.linspace(0, 1, count + 1, dtype=t.dtype, device=t.device)
        return torch.lerp(t[0], t[-1], parts)

    return grid
