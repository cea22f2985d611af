"""Maximum likelihood, by Pyro's SVI."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext

import torch
from pyro.infer import SVI
from torch import Tensor

from pyro_nf.bijections import ConvergenceError
from pyro_nf.distributions import Dequantized
from pyro_nf.infer._data import Batch
from pyro_nf.infer._elbo import DensityELBO, check_model, density_model, empty_guide
from pyro_nf.infer._objective import Step
from pyro_nf.infer._optimizer import JointOptimizer
from pyro_nf.infer._seeding import seeded
from pyro_nf.infer._support import Density
from pyro_nf.infer.result import Unit
from pyro_nf.transforms import Continuous, Evaluations


class Likelihood:
    """The mean negative log density, and the weighted side results of the flow's layers."""

    unit: Unit = "nats per datum"

    def __init__(
        self, flow: Density, aux_weights: Mapping[str, float], optimizer: JointOptimizer
    ) -> None:
        self._flow, self._optimizer = flow, optimizer
        self._losses: dict[str, float] = {}
        elbo = DensityELBO(flow, aux_weights, self._report)
        self._svi = SVI(density_model(flow), empty_guide, optimizer, elbo)
        self._layers = [part for part in flow.modules() if isinstance(part, Continuous)]

    def check(self, rows: Batch) -> None:
        """Runs the model once under the caller's validation, and refuses sampled weights."""
        check_model("fit_density", self._flow, rows)

    def step(self, x: Tensor, context: Tensor | None) -> Step:
        """Takes a step of SVI."""
        before = [layer.evaluations for layer in self._layers]
        self._svi.step(x, context)
        return Step(self._losses, self._evaluations(before))

    def _report(self, loss: float, means: dict[str, float]) -> None:
        self._losses = {"train": loss, **means}
        self._optimizer.loss = loss

    def _evaluations(self, before: list[Evaluations]) -> tuple[int, int] | None:
        """The step's, where a failure may have kept a layer from being called at all."""
        if not self._layers:
            return None
        latest = [layer.evaluations for layer in self._layers]
        counts = [new for new, old in zip(latest, before, strict=True) if new is not old]
        return sum(count.forward for count in counts), sum(count.backward for count in counts)

    def held_out(self, batches: Iterable[Batch]) -> float:
        """The mean negative log density; infinite where a numerical inverse is not found.

        Integers are scored with the same noise each time: fresh noise would choose lucky weights.
        """
        with seeded(0) if isinstance(self._flow, Dequantized) else nullcontext():
            return self._mean_loss(batches)

    @torch.no_grad()
    def _mean_loss(self, batches: Iterable[Batch]) -> float:
        total, rows = 0.0, 0
        for x, context in batches:
            try:
                total -= float(self._flow(context).log_prob(x).sum(dtype=torch.float64))
            except ConvergenceError:
                return math.inf
            rows += len(x)
        return total / rows
