"""Simulation-free training of a continuous flow."""

from __future__ import annotations

import os

import torch
from torch.utils.data import DataLoader

from pyro_nf._checks import choice
from pyro_nf.distributions import Flow
from pyro_nf.infer._fit import fit
from pyro_nf.infer._inputs import check_flow
from pyro_nf.infer._matching import Coupling, FlowMatching
from pyro_nf.infer._optimizer import JointOptimizer, MakeOptimizer, Schedule
from pyro_nf.infer._options import Callback, Options
from pyro_nf.infer._sides import Sides
from pyro_nf.infer.density import Rows
from pyro_nf.infer.result import FitResult

_OWNER = "fit_flow_matching"


def fit_flow_matching(
    flow: Flow,
    data: Rows | DataLoader,
    *,
    context: Rows | None = None,
    coupling: Coupling | None = None,
    validation: float | Rows | tuple[Rows, Rows] | DataLoader | None = 0.1,
    max_steps: int = 4000,
    batch_size: int | None = None,
    learning_rate: float = 2e-2,
    schedule: Schedule = "cosine",
    clip_norm: float | None = 5.0,
    optimizer: MakeOptimizer | None = None,
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
    r"""Trains the vector field of a continuous flow without solving its equation, in place.

    The field is fitted by regression on the velocities of straight paths between draws
    :math:`z_0` of the base and data :math:`z_1`, which a solver then follows:

    .. math:: \mathbb{E} \left\lVert f_\theta(t, z_t, c) - \frac{z_1 - z_0}{T} \right\rVert^2,
        \qquad z_t = \Big(1 - \frac tT\Big) z_0 + \frac tT z_1, \quad t \sim U(0, T).

    Its minimum is a field whose flow carries the base to the data. A step costs one evaluation of
    the field with its gradient, where maximum likelihood costs a solve with tens of them. The loss
    is no likelihood: ``flow().log_prob`` solves the equation as ever, and a few steps of
    :func:`fit_density` thereafter refine the fit.

    Only the continuous layer is trained. Layers on its data side, which take what they take from
    data first, pull the data back; layers on its base side push the base draws forth. Both, and
    the base, stay as they are, in evaluation mode.

    The field is called with a time for each row, ``field(t, z, c)`` with t of shape
    ``(rows, 1)``, or ``(rows, 1, 1, 1)`` for images: a module of your own must let t broadcast
    against z.

    **Coupling.** "independent" pairs draws and data at random. "optimal_transport" pairs those of
    64 rows at a time so that the sum of squared distances is least, which straightens the paths:
    solves then need fewer evaluations. The CPU takes some tenths of a millisecond for 64 rows.
    With a context it is refused, for it would move base draws between rows: given a context they
    would no longer follow the base, and the conditional densities would be biased.

    Args:
        flow: The flow, whose chain has exactly one :class:`~pyro_nf.transforms.Continuous` layer,
            with a fixed end time T.
        data: As for :func:`fit_density`.
        context: As for :func:`fit_density`.
        coupling: "optimal_transport" or "independent"; None for the first without a context, the
            second with one.
        validation: As for :func:`fit_density`. Rows held out are scored with the same base draws
            and times at every measurement, so that the losses compare.
        max_steps: Most steps to take.
        batch_size: Rows in a step; None for 512, or all rows if there are fewer.
        learning_rate: Initial learning rate of Adam (unused with ``optimizer``).
        schedule: Factor on the learning rate, as for :func:`fit_density`.
        clip_norm: Largest norm of the gradient; None for no bound.
        optimizer: Function from the list of parameters to a ``torch.optim.Optimizer``; None for
            Adam.
        validate_every: Steps between two measurements of the held-out loss.
        patience: Steps without a better held-out loss after which to stop; None: never.
        seed: Seed of the held-out choice, of the batches, and of what scores the rows held out.
            Times and base draws of the steps come from torch's global generator.
        device: Where to move the flow first.
        progress: Whether to show a progress bar; None shows one in a terminal.
        callback: Called as ``callback(step, losses)`` after each step.
        checkpoint: File for checkpoints, as for :func:`fit_density`.
        checkpoint_every: Steps between two checkpoints.
        resume: Continue from ``checkpoint`` if the file exists, exactly as without interruption.

    Returns:
        The losses, the step whose weights were kept, and why the fit stopped. Losses are squared
        errors of velocities, summed over dimensions, in squared units of the layer's data side
        for each squared unit of time. They do not fall to 0, for many paths cross at a point.

    Raises:
        ValueError: If the flow has not exactly one continuous layer with a fixed end time, or
            data, a size or an option do not fit; the message says how to mend it.
        TypeError: If an argument is of another type.

    References:
        - Flow matching for generative modeling (Lipman et al., 2022), arXiv:2210.02747.
        - Improving and generalizing flow-based generative models with minibatch optimal transport
          (Tong et al., 2023), arXiv:2302.00482.

    Examples:
        >>> import torch
        >>> from pyro_nf import infer
        >>> from pyro_nf.distributions import DiagonalNormal, Flow
        >>> from pyro_nf.nn import FieldMLP
        >>> from pyro_nf.transforms import ActNorm, Continuous
        >>> x = torch.randn(500, 2) @ torch.tensor([[1.0, 0.5], [0.0, 0.3]])
        >>> flow = Flow(DiagonalNormal(2), [Continuous(FieldMLP(2)), ActNorm(2)])
        >>> result = infer.fit_flow_matching(flow, x, max_steps=20)
        >>> result.steps, result.unit
        (20, 'squared velocity per datum')
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
    sides = Sides(_OWNER, flow)
    chosen = _coupling(coupling, flow.context_dim)

    def objective(optimizer: JointOptimizer) -> FlowMatching:
        return FlowMatching(_OWNER, sides, chosen, seed, optimizer)

    return fit(flow, sides.layer.field, data, context, objective, options, {"coupling": chosen})


def _coupling(coupling: Coupling | None, context_dim: int) -> Coupling:
    """The pairing that was asked for, or that fits a flow with this size of context."""
    if coupling is None:
        return "independent" if context_dim else "optimal_transport"
    choice(_OWNER, "coupling", coupling, ("optimal_transport", "independent"))
    if context_dim and coupling == "optimal_transport":
        raise ValueError(
            f"{_OWNER} got coupling='optimal_transport' for a flow with "
            f"context_dim={context_dim}. Pairing across rows would bias its conditional "
            "densities: pass coupling='independent'."
        )
    return coupling
