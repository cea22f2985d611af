"""Maximum likelihood for a flow, on Pyro's SVI."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution
from torch.utils.data import DataLoader

from pyro_nf._checks import non_negative_int, positive_float, positive_int
from pyro_nf.distributions import AutoregressivePrior, Flow, MixtureOfFlows
from pyro_nf.infer._data import Batch, prepare
from pyro_nf.infer._elbo import density_model
from pyro_nf.infer._inputs import OWNER, Expected, check_flow
from pyro_nf.infer._optimizer import (
    JointOptimizer,
    MakeOptimizer,
    Schedule,
    adam,
    schedule_factor,
)
from pyro_nf.infer._support import Density
from pyro_nf.infer._training import Callback, Plan, Trainer
from pyro_nf.infer.checkpoint import load_checkpoint
from pyro_nf.infer.result import FitResult

Rows = Tensor | np.ndarray


def fit_density(
    flow: Flow | MixtureOfFlows | AutoregressivePrior,
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

    Args:
        flow: The flow, a mixture of flows or a prior over sequences; its parameters are trained
            where they are and lie.
        data: Real data of shape ``(rows, *flow.event_shape)``: a tensor, an array, or a
            ``DataLoader`` that yields ``x`` or ``(x, context)``. They are cast to the flow's dtype
            and, but for a loader's, kept on its device. Values that are not finite or outside of
            the flow's support are refused, a loader's when it is first read.
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
            (``flow.auxiliary()``) are added to what is minimised.
        validate_every: Steps between two measurements of the held-out loss.
        patience: Steps without a better held-out loss after which to stop; None: never.
        seed: Seed of the held-out choice and of the batches. The global generator, from which
            dropout draws, is the caller's: ``pyro.set_rng_seed``.
        device: Where to move the flow first.
        progress: Whether to show a progress bar; None shows one in a terminal.
        callback: Called as ``callback(step, losses)`` after each step; ``losses`` has ``"train"``,
            after a measurement ``"validation"``, and each weighted side result by its name.
        checkpoint: File for checkpoints, written atomically; it loads with ``weights_only=True``.
        checkpoint_every: Steps between two checkpoints; the end writes one too, and so does
            Ctrl-C once the step under way is taken (a second Ctrl-C does not wait for it).
        resume: Continue from ``checkpoint`` if the file exists: on the same machine, with the same
            data and options, exactly the run without the interruption, dropout's draws included.

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
    check_flow(flow)
    for name, count in (
        ("max_steps", max_steps),
        ("validate_every", validate_every),
        ("checkpoint_every", checkpoint_every),
        ("batch_size", 1 if batch_size is None else batch_size),
        ("patience", 1 if patience is None else patience),
    ):
        positive_int(OWNER, name, count)
    non_negative_int(OWNER, "seed", seed)
    positive_float(OWNER, "learning_rate", learning_rate)
    if clip_norm is not None:
        positive_float(OWNER, "clip_norm", clip_norm)
    weights = _checked_weights(aux_weights or {})
    factor = schedule_factor(schedule, max_steps)
    if resume and checkpoint is None:
        raise ValueError(f"{OWNER} got resume=True without a checkpoint. Pass checkpoint=path.")
    state = None
    if resume and checkpoint is not None and os.path.exists(checkpoint):
        state = load_checkpoint(checkpoint)

    if device is not None:
        flow.to(device)
    parameters = [p for p in flow.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            f"{OWNER} got a flow without trainable parameters. "
            "Add a layer that has some, or set requires_grad_(True)."
        )
    # A store of its own: PyroParam weights would enter the global one, or be replaced from it.
    with pyro.get_param_store().scope():
        batches, held_out = prepare(
            Expected.by(flow),
            data,
            context,
            validation=validation,
            batch_size=batch_size,
            seed=seed,
        )
        plan = Plan(
            max_steps=max_steps,
            validate_every=validate_every,
            patience=patience,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            fingerprint={**batches.fingerprint, "seed": seed},
        )
        initial = batches.initial()
        flow.initialize(*initial)
        _check_model(flow, initial)
        torch_optimizer = (optimizer or adam(learning_rate))(parameters)
        joint = JointOptimizer(torch_optimizer, factor, clip_norm)
        trainer = Trainer(flow, batches, held_out, joint, weights, plan)
        if state is not None:
            trainer.load_state_dict(state)
        # What validation can find has been found on the first rows; at every step it costs.
        with _without_validation():
            return trainer.run(callback, progress)


@contextmanager
def _without_validation() -> Iterator[None]:
    """Turns validation off for a block, then gives Pyro's flags and torch's their values back."""
    # Pyro restores its own flags, but sets torch's default to that of pyro.distributions.
    torch_default = Distribution._validate_args
    try:
        with pyro.validation_enabled(False):  # noqa: FBT003  (Pyro's signature)
            yield
    finally:
        Distribution.set_default_validate_args(torch_default)


def _checked_weights(aux_weights: Mapping[str, float]) -> dict[str, float]:
    for name, weight in aux_weights.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise TypeError(
                f"{OWNER} got aux_weights[{name!r}]={weight!r} of type {type(weight).__name__}. "
                "Pass a number."
            )
        if not math.isfinite(weight):
            raise ValueError(f"{OWNER} got aux_weights[{name!r}]={weight}. Pass a finite number.")
    return dict(aux_weights)


@torch.no_grad()
def _check_model(flow: Density, rows: Batch) -> None:
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
            f"{OWNER} got a flow whose weights are sampled ({', '.join(latent)}). Maximum "
            "likelihood has no posterior for them: use pyro.infer.SVI with a guide, or MCMC."
        )
    trace.compute_log_prob()
