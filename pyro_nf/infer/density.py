"""Maximum likelihood for a flow, on Pyro's SVI."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pyro_nf.distributions import AutoregressivePrior, Dequantized, Flow, MixtureOfFlows
from pyro_nf.infer._fit import fit
from pyro_nf.infer._inputs import check_flow
from pyro_nf.infer._likelihood import Likelihood
from pyro_nf.infer._optimizer import JointOptimizer, MakeOptimizer, Schedule
from pyro_nf.infer._options import Callback, Options
from pyro_nf.infer.result import FitResult

Rows = Tensor | np.ndarray

_OWNER = "fit_density"


def fit_density(
    flow: Flow | MixtureOfFlows | AutoregressivePrior | Dequantized,
    data: Rows | DataLoader,
    *,
    context: Rows | None = None,
    validation: float | Rows | tuple[Rows, Rows] | DataLoader | None = 0.1,
    max_steps: int = 4000,
    batch_size: int | None = None,
    learning_rate: float = 3e-3,
    schedule: Schedule = "cosine",
    clip_norm: float | None = 5.0,
    optimizer: MakeOptimizer | None = None,
    aux_weights: Mapping[str, float] | None = None,
    validate_every: int = 100,
    patience: int | None = 1500,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool | None = None,
    callback: Callback | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    resume: bool = False,
) -> FitResult:
    r"""Fits a flow to data by maximum likelihood, in place.

    Minimises the mean negative log density in nats per datum,

    .. math:: -\frac{1}{N} \sum_{n=1}^{N} \log p_\theta(x_n \mid c_n),

    by steps of ``pyro.infer.SVI`` on mini-batches: the model observes a batch in a plate and the
    guide is empty, so the loss is Pyro's. Layers that take something from data are initialised
    first. Part of the data is held out; training stops when its loss has not improved for
    ``patience`` steps, and the flow leaves with the weights that did best on it. Without held-out
    rows it leaves with the last weights.

    A step whose loss or gradient is not finite is skipped; after ten in a row the fit stops.
    Whatever ends a fit, Ctrl-C included, the flow keeps the best weights so far. Pyro's global
    parameter store and all validation flags are left as they were.

    A :class:`~pyro_nf.distributions.Dequantized` flow is fitted to integers, whose loss is the
    negative of its lower bound. Training draws its noise from the global generator; the rows held
    out get the same noise at each measurement, so that lucky noise does not choose the weights.

    Args:
        flow: The flow, a mixture of flows, a prior over sequences or a dequantised flow; its
            parameters are trained where they are and lie.
        data: Real data of shape ``(rows, *flow.event_shape)``: a tensor, an array, or a
            ``DataLoader`` that yields ``x`` or ``(x, context)``. They are cast to the flow's dtype
            and, but for a loader's, kept on its device. Values that are not finite or outside of
            the flow's support are refused, a loader's when it is first read. For a dequantised
            flow integers, which keep their dtype (unsigned ones of 16 bits or more, with which
            torch computes little, become wider): 8 bits take a quarter of the memory of float32.
        context: Shape ``(rows, flow.context_dim)``, for a flow with context.
        validation: Fraction of the rows to hold out, chosen at random, or held-out ``x`` or
            ``(x, context)``, or a loader of them. 0 or None: nothing.
        max_steps: Most steps to take.
        batch_size: Rows in a step; None for 512, or all rows if there are fewer.
        learning_rate: Initial learning rate of Adam (unused with ``optimizer``).
        schedule: Factor on the learning rate: ``"cosine"`` falls from 1 to 0 over ``max_steps``,
            ``"constant"`` stays, a function maps the step (from 0) to the factor.
        clip_norm: Largest norm of the gradient; None for no bound.
        optimizer: Function from the list of parameters to a ``torch.optim.Optimizer``; None for
            Adam, fused where torch can.
        aux_weights: Weights with which the means of side results that layers record
            (``flow.auxiliary()``) are added to what is minimised; ``{}`` for none, None for the
            flow's own ``aux_weights``.
        validate_every: Steps between two measurements of the held-out loss.
        patience: Steps without a better held-out loss after which to stop; None: never.
        seed: Seed of the held-out choice and of the batches. The global generator, from which
            dropout and dequantisation draw, is the caller's: ``pyro.set_rng_seed``.
        device: Where to move the flow first.
        progress: Whether to show a progress bar; None shows one in a terminal.
        callback: Called as ``callback(step, losses)`` after each step; ``losses`` has ``"train"``,
            after a measurement ``"validation"``, and each weighted side result by its name.
        checkpoint: File for checkpoints, written atomically; it loads with ``weights_only=True``.
        checkpoint_every: Steps between two checkpoints; the end writes one too, and so does
            Ctrl-C once the step under way is taken (a second Ctrl-C does not wait for it).
        resume: Continue from ``checkpoint`` if the file exists: on the same machine, with the same
            data and options, exactly the run without the interruption, draws of dropout and of
            dequantisation included.

    Returns:
        The losses, the step whose weights were kept, and why the fit stopped.

    Raises:
        ValueError: If the data, a size or an option do not fit, or ``checkpoint`` is to be resumed
            and is none; the message says how to mend it.
        TypeError: If an argument is of another type: a distribution or a layer for the flow, say.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows, infer
        >>> x = torch.randn(500, 2) @ torch.tensor([[1.0, 0.5], [0.0, 0.3]])
        >>> flow = flows.maf(2)
        >>> result = infer.fit_density(flow, x, max_steps=20)
        >>> result.steps, len(result.train_losses), result.stopped
        (20, 20, 'max_steps')
        >>> flow().log_prob(x).shape
        torch.Size([500])
    """
    check_flow(_OWNER, flow)
    options = Options(
        owner=_OWNER,
        validation=validation,
        max_steps=max_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule=schedule,
        clip_norm=clip_norm,
        optimizer=optimizer,
        validate_every=validate_every,
        patience=patience,
        seed=seed,
        device=device,
        progress=progress,
        callback=callback,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
    )
    if aux_weights is None:  # a module of the user's own with a flow's calls need not have any
        aux_weights = getattr(flow, "aux_weights", {})
    weights = _checked_weights(aux_weights)

    def objective(optimizer: JointOptimizer) -> Likelihood:
        return Likelihood(flow, weights, optimizer)

    return fit(flow, flow, data, context, objective, options)


def _checked_weights(aux_weights: Mapping[str, float]) -> dict[str, float]:
    for name, weight in aux_weights.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise TypeError(
                f"{_OWNER} got aux_weights[{name!r}]={weight!r} of type {type(weight).__name__}. "
                "Pass a number."
            )
        if not math.isfinite(weight):
            raise ValueError(f"{_OWNER} got aux_weights[{name!r}]={weight}. Pass a finite number.")
    return dict(aux_weights)
