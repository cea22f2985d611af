"""One torch optimiser over all parameters of a flow, in the form that Pyro's SVI calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn

from pyro_nf._checks import choice

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
Schedule = Literal["cosine", "constant"] | Callable[[int], float]


class JointOptimizer(PyroOptim):
    """A ``PyroOptim`` that holds one torch optimiser for all parameters.

    Pyro's own makes an optimiser for each parameter, which rules a fused step and a joint gradient
    norm out. This one also clips that norm, follows a schedule of the learning rate, and leaves
    everything as it is where loss or gradient are not finite.

    Args:
        optimizer: The torch optimiser.
        schedule: Maps the step, from 0, to a factor on each group's learning rate.
        clip_norm: Largest norm of the gradient; None for no bound.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        clip_norm: float | None,
    ) -> None:
        super().__init__(type(optimizer), {})
        self.optimizer = optimizer
        self.step_count = 0
        self.loss = 0.0  # set by the loss before each call
        self.skipped = False
        self._schedule = schedule
        self._clip_norm = clip_norm
        self._base_rates = [group["lr"] for group in optimizer.param_groups]
        self._params = [p for group in optimizer.param_groups for p in group["params"]]
        self._known = {id(p) for p in self._params}

    def __call__(self, params: Iterable[Tensor], *_: Any, **__: Any) -> None:
        """Takes one step, or none where the loss or the gradient's norm is not finite."""
        if any(p.requires_grad and id(p) not in self._known for p in params):
            raise ValueError(
                "fit_density met a pyro.param that is no parameter of the flow, so it would be "
                "lost with the parameter store. Make it a PyroParam or an nn.Parameter of a layer."
            )
        grads = [p.grad for p in self._params if p.grad is not None]
        norm = nn.utils.get_total_norm(grads)
        self.skipped = not (math.isfinite(self.loss) and math.isfinite(float(norm)))
        if not self.skipped:
            if self._clip_norm is not None:
                nn.utils.clip_grads_with_norm_(self._params, self._clip_norm, norm)
            factor = self._schedule(self.step_count)
            for group, rate in zip(self.optimizer.param_groups, self._base_rates, strict=True):
                group["lr"] = rate * factor
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step_count += 1

    def get_state(self) -> dict[str, Any]:
        """Returns the optimiser's state and the position in the schedule."""
        return {"optimizer": self.optimizer.state_dict(), "step": self.step_count}

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Goes back to a state."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.step_count = state_dict["step"]


def adam(learning_rate: float) -> MakeOptimizer:
    """Creates Adam over given parameters, fused where torch can."""

    def make(params: list[nn.Parameter]) -> torch.optim.Optimizer:
        fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in params)
        return torch.optim.Adam(params, lr=learning_rate, fused=fused)

    return make


def schedule_factor(owner: str, schedule: Any, max_steps: int) -> Callable[[int], float]:
    """Returns the factor on the learning rate as a function of the step, from 0."""
    if callable(schedule):
        return schedule
    if choice(owner, "schedule", schedule, ("cosine", "constant")) == "constant":
        return lambda step: 1.0
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(step / max_steps, 1.0)))
