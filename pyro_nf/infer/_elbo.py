"""The loss of a density fit: Pyro's ``Trace_ELBO`` of a model without latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_nf.bijections import ConvergenceError
from pyro_nf.infer._data import Batch
from pyro_nf.infer._support import Density
from pyro_nf.transforms import FlowTransform

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


@torch.no_grad()
def check_model(owner: str, flow: Density, rows: Batch) -> None:
    """Runs the model once under the caller's validation, and refuses weights that are sampled."""
    x, context = rows
    few = x[:2], None if context is None else context[:2]
    trace = poutine.trace(density_model(flow)).get_trace(*few)
    latent = [
        name
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and name != "data"
    ]
    if latent:
        raise ValueError(
            f"{owner} got a flow whose weights are sampled ({', '.join(latent)}). It has no "
            "posterior for them: use pyro.infer.SVI with a guide, or MCMC."
        )
    trace.compute_log_prob()


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
        collector: AbstractContextManager[dict[str, Tensor]] = nullcontext({})
        if self._aux_weights:
            collector = self._flow.auxiliary(self._aux_weights)
        with collector as side_results:
            try:
                ((model_trace, _),) = self._get_traces(model, guide, args, kwargs)
                objective = loss = -model_trace.log_prob_sum()
            except ConvergenceError:
                return self._failed()
        means: dict[str, float] = {}
        for name, weight in self._aux_weights.items():
            if name not in side_results:
                known = ", ".join(map(repr, self._known(side_results))) or "none"
                raise ValueError(
                    f"fit_density got aux_weights for {name!r}; the flow's layers record {known}. "
                    "Weigh one of these, or pass aux_weights={}."
                )
            mean = side_results[name].mean()
            objective = objective + weight * mean
            means[name] = mean.item()
        if objective.requires_grad:
            try:
                objective.backward()
            except ConvergenceError:
                return self._failed()
        value = loss.item()
        self._report(value, means)
        return value

    def _failed(self) -> float:
        """A numerical inverse or solve was not found: a step like any other without a loss."""
        self._report(math.nan, {})
        return math.nan

    def _known(self, recorded: Iterable[str]) -> list[str]:
        """Names of the side results that the flow's layers can record, or did."""
        layers = (part for part in self._flow.modules() if isinstance(part, FlowTransform))
        return sorted({*recorded, *(name for layer in layers for name in layer.side_results)})
