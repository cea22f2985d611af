"""Guides that are no flow: the last stage alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO
from tqdm.auto import tqdm

from pyro_nf.infer._psis import diagnostics
from pyro_nf.infer._recipe.climb import Climb, ClimbPlan
from pyro_nf.infer._recipe.objectives import PyroELBO
from pyro_nf.infer._recipe.options import RecipeOptions
from pyro_nf.infer.autoguide._guide import FlowGuide
from pyro_nf.infer.guide_fit import GuideFit, Stage


def fit_any_guide(
    model: Callable[..., Any],
    guide: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    pair: Any,
    elbo: ELBO | None,
    options: RecipeOptions,
    bar: tqdm,
) -> GuideFit:
    """Trains a guide of any kind by an ELBO of Pyro's.

    Args:
        model: The model.
        guide: The guide.
        args: Their arguments.
        kwargs: Their keyword arguments.
        pair: Model and guide, as they run on many draws.
        elbo: The objective; None for ``Trace_ELBO``, vectorised where that is right.
        options: How.
        bar: The progress bar to move.
    """
    started = time.perf_counter()
    torch.manual_seed(options.seed)
    if options.restarts > 1 or options.annealing is not None:
        raise ValueError(
            f"{options.owner} got restarts={options.restarts} and annealing={options.annealing} "
            f"for a {type(guide).__name__}; both need an AutoFlow. Leave them at their defaults."
        )
    if elbo is None:
        elbo = Trace_ELBO(
            num_particles=options.num_particles,
            vectorize_particles=pair.particles == "plate",
            max_plate_nesting=pair.nesting,
        )
    trained = [p for p in pair.parameters if p.requires_grad]
    if not trained:
        raise ValueError(
            f"{options.owner} got a guide and a model without trainable parameters. Pass a guide "
            "that has some."
        )
    climb = Climb(
        PyroELBO(elbo, model, guide, args, kwargs),
        trained,
        ClimbPlan(
            owner=options.owner,
            num_steps=options.num_steps,
            learning_rate=options.learning_rate,
            clip_norm=options.clip_norm,
            checkpoint=options.checkpoint,
            checkpoint_every=options.checkpoint_every,
            callback=options.callback,
        ),
        bar,
        header={"fingerprint": options.fingerprint(), "stages": []},
    )
    saved = options.saved_state()
    if saved is not None:
        climb.load_state_dict(saved)
    # Under other objectives path gradients may be biased.
    allowed = isinstance(elbo, (Trace_ELBO, TraceEnum_ELBO))
    path = allowed and isinstance(guide, FlowGuide)
    with guide.path_gradients() if path else nullcontext():
        climb.run()
    with torch.no_grad():
        draws = pair.draw(options.final_draws)
    done = diagnostics(draws.log_p, draws.log_q)
    mute = pair.noisy or pair.is_point  # weights that say nothing of the guide
    seconds = time.perf_counter() - started
    return GuideFit(
        guide=guide,
        elbo=done.elbo,
        elbo_se=done.elbo_se,
        log_evidence=math.nan if mute else done.log_evidence,
        k_hat=math.nan if mute else done.k_hat,
        ess=math.nan if mute else done.ess,
        var_log_w=done.var_log_w,
        losses=climb.losses,
        stages=[Stage("elbo", seconds, done.elbo)],
        best_step=climb.best_step,
        skipped=climb.skipped,
        restarts=[done.elbo],
        stopped=climb.stopped,
        seconds=seconds,
    )
