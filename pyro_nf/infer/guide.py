"""Variational inference with a guide, by a recipe that works at its defaults."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from tqdm.auto import tqdm

from pyro_nf.infer._draws import Pair
from pyro_nf.infer._log_joint import LogJoint
from pyro_nf.infer._recipe.general import fit_any_guide
from pyro_nf.infer._recipe.objectives import PyroELBO
from pyro_nf.infer._recipe.options import Annealing, RecipeOptions
from pyro_nf.infer._recipe.recipe import Problem, fit_posterior
from pyro_nf.infer._validation import without_validation
from pyro_nf.infer.autoguide.flow import AutoFlow
from pyro_nf.infer.guide_fit import GuideFit

_OWNER = "fit_guide"
_MANY, _FEW = 256, 16


def fit_guide(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    model_kwargs: Mapping[str, Any] | None = None,
    elbo: ELBO | None = None,
    num_steps: int = 3000,
    num_particles: int | None = None,
    learning_rate: float = 5e-3,
    clip_norm: float | None = 100.0,
    starts: int = 4,
    restarts: int = 1,
    annealing: bool | Annealing = False,
    tolerance: float | None = 3e-4,
    final_draws: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool | None = None,
    callback: Callable[[int, float], None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    resume: bool = False,
) -> GuideFit:
    r"""Fits a guide to a model's posterior, in place, by maximising the ELBO.

    .. math:: \mathrm{ELBO}(\phi) = \mathbb{E}_{q_\phi(z)}[\log p(x, z) - \log q_\phi(z)]

    For an :class:`~pyro_nf.infer.autoguide.AutoFlow` it is a recipe of three stages.

    1. *path*: L-BFGS in float64 from several points. The Gaussian with the best ELBO on the way,
       its covariance from the Hessian, becomes the frame in which all else is trained.
    2. *affine*: 500 steps of 64 draws train base and affine layer. If the variance of the log
       weights is then below .01 the posterior is as good as Gaussian, and the fit ends.
    3. *flow*: Adam on the whole, with many draws in a step, a cosine schedule and path gradients.
       It ends early once the ELBO's standard error over 100 steps is below ``tolerance``.

    Any other guide is trained by the third stage alone. Parameters of the model
    (``pyro.param``, ``pyro.module``) are trained along. Steps whose density or gradient is not
    finite are skipped and counted. The guide leaves with the best weights, Ctrl-C included.

    Args:
        model: The model.
        guide: The guide; an autoguide is set up with the arguments.
        *args: The model's arguments.
        model_kwargs: The model's keyword arguments.
        elbo: The objective of the last stage, ``pyro.infer.TraceEnum_ELBO()`` or
            :class:`~pyro_nf.infer.IWELBO`, say; None for the plain ELBO with discrete sites
            summed out.
        num_steps: Steps of the last stage.
        num_particles: Draws in a step; None for 256, or 16 where the model must run for each.
        learning_rate: Adam's first rate in the last stage.
        clip_norm: Largest norm of the gradient; None for no bound.
        starts: Starting points of the path stage, ``init_loc_fn``'s among them; 0 leaves the first
            two stages out and goes on from the guide as it is.
        restarts: Runs of the whole recipe, of which the best is kept.
        annealing: Approach the posterior from a wide density, which finds modes that lie apart:
            True or an :class:`~pyro_nf.infer.Annealing`. The affine stage is left out.
        tolerance: Standard error of the ELBO in nats at which the last stage may end; None: never.
        final_draws: Fresh draws for the numbers of the result; None for 10,000, or 1000 where the
            model must run for each.
        seed: Seed of all draws; the global generators are left as they were.
        device: Where to move the model (if it is a module), the guide and the arguments' tensors;
            None leaves them, and the guide lies where the model's latents do.
        progress: Whether to show a progress bar; None shows one in a terminal.
        callback: Called as ``callback(step, elbo)`` after each step of the last stage.
        checkpoint: File for checkpoints of the last stage; it loads with ``weights_only=True``.
        checkpoint_every: Steps between two checkpoints.
        resume: Continue from ``checkpoint`` if the file exists.

    Returns:
        The course of the fit and how well the guide fits.

    Raises:
        ValueError: If an option does not fit, the model has no finite density at any start (the
            message names the sites), the objective is ``TraceMeanField_ELBO`` (which drops the
            Jacobian of constrained sites), or for what the guide's set-up refuses.

    References:
        - Advances in Black-Box VI: Normalizing Flows, Importance Weighting, and Optimization
          (Agrawal, Sheldon, Domke, 2020), arXiv:2006.10343.
        - Pathfinder: Parallel quasi-Newton variational inference (Zhang et al., 2022),
          arXiv:2108.03782.
        - Sticking the landing (Roeder et al., 2017), arXiv:1703.09194.

    Examples:
        >>> import torch, pyro
        >>> import pyro.distributions as dist
        >>> from pyro_nf import infer
        >>> from pyro_nf.infer.autoguide import AutoFlow
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> guide = AutoFlow(model)
        >>> fit = infer.fit_guide(model, guide, torch.ones(3))
        >>> fit.stopped, [stage.name for stage in fit.stages]
        ('affine', ['path', 'affine'])
        >>> round(float(guide.median(torch.ones(3))["mean"]), 1)  # 3 / (1 + 3)
        0.7...
    """
    kwargs = dict(model_kwargs or {})
    _check(model, guide, elbo)
    if device is not None:
        args, kwargs = pytree.tree_map(lambda leaf: _moved(leaf, device), (args, kwargs))
        for part in (model, guide):
            if isinstance(part, nn.Module):
                part.to(device)
    with _own_randomness(), poutine.block():
        if isinstance(guide, AutoFlow):
            with without_validation():
                guide(*args, **kwargs)  # takes the parameters of Pyro's store, if it has them
                if device is not None:  # the latents of a model of plain numbers lie on the CPU
                    guide.to(device)
                    guide.latents.start = guide.latents.start.to(device)
                log_joint = LogJoint(model, args, kwargs, guide.latents)
            particles = log_joint.particles
        else:
            if isinstance(guide, AutoGuide) and guide.prototype_trace is None:
                guide(*args, **kwargs)
            pair = Pair(model, guide, args, kwargs)
            particles = pair.particles
    many = particles != "loop"
    options = RecipeOptions(
        owner=_OWNER,
        num_steps=num_steps,
        num_particles=(_MANY if many else _FEW) if num_particles is None else num_particles,
        learning_rate=learning_rate,
        clip_norm=clip_norm,
        starts=starts,
        restarts=restarts,
        annealing=Annealing() if annealing is True else (annealing or None),
        tolerance=tolerance,
        final_draws=(10_000 if many else 1000) if final_draws is None else final_draws,
        seed=seed,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
        callback=callback,
    )
    bar = tqdm(
        total=options.num_steps, disable=None if progress is None else not progress, desc=_OWNER
    )
    with _own_randomness(), without_validation(), bar:
        if isinstance(guide, AutoFlow):
            problem = _problem(model, guide, args, kwargs, log_joint, elbo)
            fit = fit_posterior(problem, options, bar)
        else:
            fit = fit_any_guide(model, guide, args, kwargs, pair, elbo, options, bar)
    fit.particles = particles
    return fit


def _problem(
    model: Callable[..., Any],
    guide: AutoFlow,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    log_joint: LogJoint,
    elbo: ELBO | None,
) -> Problem:
    wide = log_joint.in_float64()

    def describe(z: Tensor) -> str:
        bad = [
            name
            for name, log_prob in log_joint.by_site(z).items()
            if not bool(torch.as_tensor(log_prob).isfinite().all())
        ]
        return f" (not finite at the first: {', '.join(bad)})" if bad else ""

    return Problem(
        owner=_OWNER,
        guide=guide,
        posterior=guide.posterior,
        log_density=log_joint,
        wide=wide,
        wide_dtype=torch.float64 if wide is not log_joint else guide.latents.dtype,
        others=[p for p in log_joint.parameters if p.requires_grad],
        path_gradient=guide.path_gradient,
        objective=None if elbo is None else lambda: PyroELBO(elbo, model, guide, args, kwargs),
        noisy=log_joint.subsampled,
        describe=describe,
        around=guide.path_gradients if isinstance(elbo, (Trace_ELBO, TraceEnum_ELBO)) else None,
    )


def _check(model: Any, guide: Any, elbo: Any) -> None:
    for name, value in (("model", model), ("guide", guide)):
        if not callable(value):
            raise TypeError(
                f"{_OWNER} got a {name} of type {type(value).__name__}. Pass a function of Pyro "
                "statements."
            )
    if elbo is not None and not isinstance(elbo, ELBO):
        raise TypeError(
            f"{_OWNER} got an elbo of type {type(elbo).__name__}. Pass an object such as "
            "pyro.infer.TraceEnum_ELBO(), or None."
        )
    if isinstance(elbo, TraceMeanField_ELBO):
        raise ValueError(
            f"{_OWNER} got {type(elbo).__name__}, which drops the Jacobian of constrained sites "
            "from an autoguide's density. Pass pyro.infer.Trace_ELBO(), or None."
        )


def _moved(leaf: Any, device: Any) -> Any:
    return leaf.to(device) if isinstance(leaf, Tensor) else leaf


def _own_randomness() -> Any:
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))
