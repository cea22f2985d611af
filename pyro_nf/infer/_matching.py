"""Flow matching: regression of a vector field on the velocities of straight paths."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from pyro_nf.bijections import ConvergenceError
from pyro_nf.infer._data import Batch
from pyro_nf.infer._elbo import check_model
from pyro_nf.infer._objective import Step
from pyro_nf.infer._optimizer import JointOptimizer
from pyro_nf.infer._sides import Sides
from pyro_nf.infer.checkpoint import random_state, set_random_state
from pyro_nf.infer.result import Unit

Coupling = Literal["optimal_transport", "independent"]

GROUP = 64
"""Rows that optimal transport pairs together; more cost more, and straighten little further."""


class FlowMatching:
    """The squared error of a continuous layer's field along straight paths from base to data.

    Args:
        owner: The function that the messages name.
        sides: The flow.
        coupling: How base draws and data of a batch are paired.
        seed: Seed of the base draws and times that score the rows held out.
        optimizer: What takes the steps.
    """

    unit: Unit = "squared velocity per datum"

    def __init__(
        self,
        owner: str,
        sides: Sides,
        coupling: Coupling,
        seed: int,
        optimizer: JointOptimizer,
    ) -> None:
        self._owner, self._sides, self._coupling = owner, sides, coupling
        self._seed, self._optimizer = seed, optimizer

    def check(self, rows: Batch) -> None:
        """Solves once, and evaluates the field with a time for each row, as training does."""
        check_model(self._owner, self._sides.flow, rows)
        x, context = rows[0][:2], None if rows[1] is None else rows[1][:2]
        z = self._sides.ends(x, context)[1]
        t = z.new_zeros(len(z), *[1] * (z.ndim - 1))
        call = (
            f"{self._owner} calls the field {type(self._sides.layer.field).__name__} with a time "
            f"for each row, t of shape {tuple(t.shape)} and z of shape {tuple(z.shape)}; it"
        )
        cure = "Write it so that t broadcasts against z, or train it by fit_density."
        try:
            with torch.no_grad():
                velocity = self._sides.velocity(t, z, context)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{call} raised {type(error).__name__}. {cure}") from error
        if velocity.shape != z.shape:
            raise ValueError(f"{call} returned shape {tuple(velocity.shape)}. {cure}")

    def step(self, x: Tensor, context: Tensor | None) -> Step:
        """Backpropagates through one evaluation of the field, and calls the optimiser."""
        try:
            loss = self._errors(x, context).mean()
        except ConvergenceError:  # a layer could not pull the data back
            self._optimizer.loss = math.nan
        else:
            loss.backward()
            self._optimizer.loss = loss.item()
        self._optimizer([])
        return Step({"train": self._optimizer.loss})

    @torch.no_grad()
    def held_out(self, batches: Iterable[Batch]) -> float:
        """The mean error, with the same base draws and times at every measurement."""
        total, rows = 0.0, 0
        with _own_draws(self._seed):
            for x, context in batches:
                try:
                    total += float(self._errors(x, context).sum(dtype=torch.float64))
                except ConvergenceError:
                    return math.inf
                rows += len(x)
        return total / rows

    def _errors(self, x: Tensor, context: Tensor | None) -> Tensor:
        """The squared error of each row's velocity at a random time, shape ``(rows,)``."""
        start, end = self._sides.ends(x, context)
        if self._coupling == "optimal_transport":
            start = nearest(start, end)
        share = torch.rand_like(end[(slice(None), *[slice(1)] * (end.ndim - 1))])  # (rows, 1, ...)
        z, end_time = torch.lerp(start, end, share), self._sides.end_time
        error = self._sides.velocity(share * end_time, z, context) - (end - start) / end_time
        return error.square().flatten(1).sum(1)


def nearest(start: Tensor, end: Tensor) -> Tensor:
    """Permutes ``start`` within groups of rows, to the least sum of squared distances to ``end``.

    Cost: O(group³) for each group, on the CPU; hence the groups, which make it linear in the rows.
    """
    from scipy.optimize import linear_sum_assignment  # here, because its import takes long

    one, other = (z.flatten(1).cpu().double().split(GROUP) for z in (start, end))
    costs = [torch.cdist(e, s).square() for s, e in zip(one, other, strict=True)]
    if not all(bool(cost.isfinite().all()) for cost in costs):
        return start  # the loss will not be finite either
    chosen = [torch.from_numpy(linear_sum_assignment(cost.numpy())[1]) for cost in costs]
    index = torch.cat([rows + GROUP * i for i, rows in enumerate(chosen)])
    return start[index.to(start.device)]


@contextmanager
def _own_draws(seed: int) -> Iterator[None]:
    """Seeds torch's global generators for a block, then gives them back their states."""
    before = random_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        set_random_state(before)
