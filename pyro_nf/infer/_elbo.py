"""The loss of a density fit: Pyro's ``Trace_ELBO`` of a model without latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_nf.bijections import ConvergenceError
from pyro_nf.infer._support import Density

Model = Callable[[Tensor, Tensor | None], None]


def density_model(flow: Density) -> Model:
    """Creates the model whose log density, scaled to one datum, is the flow's mean score.

    The model does not call ``pyro.module``: that declares each parameter anew at each step, which
    at small batches costs as much as the flow itself.
    """

    def model(x: Tensor, context: Tensor | None) -> None:
        # The plate's own indices and its zero; on another default device they would cost a wait.
        plate = pyro.plate("data", len(x), dim=-1, device="cpu")
        with plate, poutine.scale(scale=1 / len(x)):
            pyro.sample("x", flow(context), obs=x)

    return model


def empty_guide(x: Tensor, context: Tensor | None) -> None:
    """The guide of a model without latents."""


class DensityELBO(Trace_ELBO):
    """``Trace_ELBO`` in nats per datum, which weighs in the side results of the flow's layers.

    Three things differ from its parent. It backpropagates although the trace has no ``param`` site
    (see :func:`density_model`). It adds the weighted means of what layers record while they score,
    which exists only once the trace's log density is computed. It hands the loss to ``report``
    before the optimiser is called, so that a step can be skipped.

    Args:
        flow: The flow.
        aux_weights: Weight of each side result in the objective.
        report: Called with the loss as a float, and the means of the weighted side results.
    """

    def __init__(
        self,
        flow: Density,
        aux_weights: Mapping[str, float],
        report: Callable[[float, dict[str, float]], None],
    ) -> None:
        super().__init__(max_plate_nesting=1)
        self._flow, self._aux_weights, self._report = flow, aux_weights, report

    def loss_and_grads(self, model: Model, guide: Model, *args: Any, **kwargs: Any) -> float:
        """Computes the loss, and adds the gradient of the whole objective to ``.grad``."""
        # Collecting costs a walk over the modules, so it is done only where it is asked for.
        collector: AbstractContextManager[dict[str, Tensor]]
        collector = self._flow.auxiliary() if self._aux_weights else nullcontext({})
        with collector as side_results:
            try:
                ((model_trace, _),) = self._get_traces(model, guide, args, kwargs)
                objective = loss = -model_trace.log_prob_sum()
            except ConvergenceError:  # a step like any other without a finite loss
                self._report(math.nan, {})
                return math.nan
        means: dict[str, float] = {}
        for name, weight in self._aux_weights.items():
            if name not in side_results:
                known = ", ".join(map(repr, side_results)) or "none"
                raise ValueError(
                    f"fit_density got aux_weights for {name!r}; the flow's layers record {known}. "
                    "Weigh one of these, or leave aux_weights away."
                )
            mean = side_results[name].mean()
            objective = objective + weight * mean
            means[name] = mean.item()
        if objective.requires_grad:
            objective.backward()
        value = loss.item()
        self._report(value, means)
        return value
