"""Variational inference for a log density that no Pyro model stands behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_nf._checks import positive_float
from pyro_nf.distributions import Flow
from pyro_nf.infer._recipe.options import Annealing, RecipeOptions
from pyro_nf.infer._recipe.recipe import Problem, fit_posterior
from pyro_nf.infer._validation import without_validation
from pyro_nf.infer.autoguide._posterior import Affine, posterior_flow
from pyro_nf.infer.guide_fit import GuideFit

_OWNER = "fit_target"


def fit_target(
    flow: Flow,
    log_density: Callable[[Tensor], Tensor],
    *,
    init_loc: Tensor | None = None,
    init_scale: float = 1.0,
    affine: Affine | Literal["auto"] | None = "auto",
    path_gradient: bool | None = None,
    num_steps: int = 3000,
    num_particles: int = 256,
    learning_rate: float = 5e-3,
    clip_norm: float | None = 100.0,
    starts: int = 4,
    restarts: int = 1,
    annealing: bool | Annealing = False,
    tolerance: float | None = 3e-4,
    final_draws: int = 10_000,
    seed: int = 0,
    progress: bool | None = None,
    callback: Callable[[int, float], None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    resume: bool = False,
) -> GuideFit:
    r"""Fits a flow to an unnormalised log density by the reverse Kullback-Leibler divergence.

    .. math:: \mathrm{KL}(q_\phi \,\|\, p / Z) = \mathbb{E}_{q_\phi(z)}[\log q_\phi(z) -
        \log p(z)] + \log Z.

    The recipe is that of :func:`~pyro_nf.infer.fit_guide`, without a Pyro model. The flow given is
    trained inside of a longer one, which the result carries as ``guide``: behind it come an affine
    layer and the frame found at the density's bulk.

    Args:
        flow: A flow over ℝ^D without context.
        log_density: Maps ``(n, D)`` to ``(n,)`` in nats, up to a constant; differentiable twice,
            and in float64 too if it can.
        init_loc: First starting point, shape ``(D,)``; None for zeros.
        init_scale: First scale of the frame, which counts only with ``starts=0``.
        affine: The affine layer: as :class:`~pyro_nf.infer.autoguide.AutoFlow` takes it.
        path_gradient: Whether to take path gradients; None where the flow's inverse is cheap.
        num_steps: Steps of the last stage.
        num_particles: Draws in a step.
        learning_rate: Adam's first rate in the last stage.
        clip_norm: Largest norm of the gradient; None for no bound.
        starts: Starting points of the path stage; 0 leaves the first two stages out.
        restarts: Runs of the whole recipe, of which the best is kept.
        annealing: Approach the density from a wide one: True or an
            :class:`~pyro_nf.infer.Annealing`.
        tolerance: Standard error of the ELBO in nats at which the last stage may end; None: never.
        final_draws: Fresh draws for the numbers of the result.
        seed: Seed of all draws; the global generators are left as they were.
        progress: Whether to show a progress bar; None shows one in a terminal.
        callback: Called as ``callback(step, elbo)`` after each step of the last stage.
        checkpoint: File for checkpoints of the last stage.
        checkpoint_every: Steps between two checkpoints.
        resume: Continue from ``checkpoint`` if the file exists.

    Returns:
        The course of the fit; its ``guide`` is the fitted flow: ``fit.guide().sample((100,))``.

    Raises:
        TypeError: If ``flow`` is no flow or ``log_density`` no function.
        ValueError: If an option does not fit, the flow has a context or no fixed size, the
            density's result has another shape, or is finite at none of the starts.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows, infer
        >>> def log_density(z):
        ...     return -0.5 * ((z - 3.0) / 2.0).square().sum(-1)
        >>> fit = infer.fit_target(flows.realnvp(2), log_density)
        >>> fit.stopped, fit.guide().sample((5,)).shape
        ('affine', torch.Size([5, 2]))
        >>> round(fit.log_evidence, 2)  # log(2π · 4)
        3.22
    """
    if not isinstance(flow, Flow):
        raise TypeError(
            f"{_OWNER} got a flow of type {type(flow).__name__}. Pass a Flow, "
            "pyro_nf.flows.realnvp(2), say."
        )
    if flow.context_dim or flow.input_dim is None or flow.event_shape != (flow.input_dim,):
        raise ValueError(
            f"{_OWNER} got a flow of event shape {tuple(flow.event_shape)} and context_dim="
            f"{flow.context_dim}. Pass a flow over vectors without context."
        )
    positive_float(_OWNER, "init_scale", init_scale)
    like = next(flow.parameters())
    loc = torch.zeros(flow.input_dim).to(like) if init_loc is None else init_loc.to(like)
    if loc.shape != (flow.input_dim,):
        raise ValueError(
            f"{_OWNER} got init_loc of shape {tuple(loc.shape)}; expected ({flow.input_dim},)."
        )
    scale = torch.full_like(loc, init_scale)
    full = affine == "full" or (affine == "auto" and flow.input_dim <= 300)
    posterior = posterior_flow(_OWNER, flow, affine, None, loc, scale.diag() if full else scale)
    wide, wide_dtype = _in_float64(log_density, loc)
    options = RecipeOptions(
        owner=_OWNER,
        num_steps=num_steps,
        num_particles=num_particles,
        learning_rate=learning_rate,
        clip_norm=clip_norm,
        starts=starts,
        restarts=restarts,
        annealing=Annealing() if annealing is True else (annealing or None),
        tolerance=tolerance,
        final_draws=final_draws,
        seed=seed,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
        callback=callback,
    )
    problem = Problem(
        owner=_OWNER,
        guide=Flow(posterior.base, posterior.transform),
        posterior=posterior,
        log_density=log_density,
        wide=wide,
        wide_dtype=wide_dtype,
        path_gradient=path_gradient,
    )
    bar = tqdm(total=num_steps, disable=None if progress is None else not progress, desc=_OWNER)
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices), without_validation(), bar:
        return fit_posterior(problem, options, bar)


def _in_float64(
    log_density: Callable[[Tensor], Tensor], loc: Tensor
) -> tuple[Callable[[Tensor], Tensor], torch.dtype]:
    """The density in float64 if it takes such tensors, and the dtype that it takes."""
    points = loc.expand(2, -1)
    narrow = log_density(points)
    if not isinstance(narrow, Tensor) or narrow.shape != (2,):
        got = tuple(narrow.shape) if isinstance(narrow, Tensor) else type(narrow).__name__
        raise ValueError(
            f"{_OWNER} got a log_density that maps shape {tuple(points.shape)} to {got}; expected "
            "(2,), one number for each row."
        )
    try:
        if log_density(points.double()).dtype == torch.float64:
            return log_density, torch.float64
    except Exception:  # noqa: BLE001  what a function raises on another dtype is its own affair
        pass
    return log_density, loc.dtype
