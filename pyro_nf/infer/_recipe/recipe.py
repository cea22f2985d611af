"""The recipe: to the posterior's bulk, a frame there, an affine layer in it, then the flow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from tqdm.auto import tqdm

from pyro_nf.bijections import ConvergenceError
from pyro_nf.distributions import FlowDistribution
from pyro_nf.infer._path_gradient import Sampler
from pyro_nf.infer._psis import Diagnostics, diagnostics
from pyro_nf.infer._recipe.climb import Climb, ClimbPlan
from pyro_nf.infer._recipe.objectives import LogDensity, Objective, ReverseKL
from pyro_nf.infer._recipe.options import RecipeOptions
from pyro_nf.infer._recipe.path import Bulk, find_bulk
from pyro_nf.infer.autoguide._posterior import PosteriorFlow, supports_path
from pyro_nf.infer.guide_fit import GuideFit, Stage, StopReason
from pyro_nf.transforms import Compose

_AFFINE_STEPS, _AFFINE_DRAWS, _AFFINE_RATE, _AFFINE_CLIP = 500, 64, 0.02, 1e3
_GOOD_ENOUGH = 0.01  # variance of the log weights
_CHUNK = 2000


@dataclass
class Problem:
    """A posterior, and the flow that is to be it.

    Attributes:
        owner: Who asked, for messages.
        guide: What the result is to carry.
        posterior: The flow.
        log_density: Maps ``(n, D)`` to ``(n,)``, in nats, up to a constant.
        wide: The same in float64 where it can.
        wide_dtype: Its dtype.
        others: Parameters of the model, trained along.
        path_gradient: Whether to take path gradients; None where the flow's inverse is cheap.
        objective: Makes another objective for the flow stage, instead of the ELBO.
        noisy: Whether the log density differs from call to call.
        describe: Tells where the density is not finite at a point, for a message.
        around: A context for the flow stage.
    """

    owner: str
    guide: Any
    posterior: PosteriorFlow
    log_density: LogDensity
    wide: LogDensity
    wide_dtype: torch.dtype
    others: Sequence[Tensor] = ()
    path_gradient: bool | None = None
    objective: Callable[[], Objective] | None = None
    noisy: bool = False
    describe: Callable[[Tensor], str] = lambda z: ""
    around: Callable[[], AbstractContextManager[Any]] | None = None


def fit_posterior(problem: Problem, options: RecipeOptions, bar: tqdm) -> GuideFit:
    """Runs the recipe, as often as asked for, and keeps the best.

    Args:
        problem: What to fit.
        options: How.
        bar: The progress bar to move.

    Raises:
        ValueError: If the density is finite at none of the starts.
    """
    started = time.perf_counter()
    posterior = problem.posterior
    if options.starts and options.annealing is None and posterior.affine is not None:
        bar.total = options.restarts * (_AFFINE_STEPS + options.num_steps)
    trained = [*posterior.parameters(), *problem.others]
    fresh = [p.detach().clone() for p in trained]
    best: tuple[GuideFit, list[Tensor]] | None = None
    elbos: list[float] = []
    for restart in range(options.restarts):
        torch.manual_seed(options.seed + restart)
        if restart:
            _restore(trained, fresh)
        try:
            fit = _Run(problem, options, bar, restart).run()
        except BaseException as error:
            if best is None:
                raise
            if not isinstance(error, KeyboardInterrupt):
                _restore(trained, best[1])  # what an earlier run fitted is not lost
                raise
            best[0].stopped = "interrupted"
            break
        elbos.append(fit.elbo)
        if best is None or fit.elbo > best[0].elbo or math.isnan(best[0].elbo):
            best = fit, [p.detach().clone() for p in trained]
        if fit.stopped == "interrupted":
            break
    assert best is not None
    _restore(trained, best[1])
    fit = best[0]
    fit.restarts, fit.seconds = elbos, time.perf_counter() - started
    return fit


class _Run:
    """One run of the recipe."""

    def __init__(self, problem: Problem, options: RecipeOptions, bar: tqdm, restart: int) -> None:
        self.problem, self.options, self.bar = problem, options, bar
        self.posterior, self.restart = problem.posterior, restart
        self.stages: list[Stage] = []
        self.losses: list[float] = []
        self.skipped, self.best_step = 0, 0
        self.stopped: StopReason = "max_steps"
        self.bulk: Bulk | None = None
        wish = problem.path_gradient
        self.path = supports_path(self.posterior.transform) if wish is None else wish

    def run(self) -> GuideFit:
        options, affine = self.options, self.posterior.affine
        saved = options.saved_state() if self.restart == 0 else None
        done: Diagnostics | None = None
        if saved is not None:
            self.stages = [Stage(*stage) for stage in saved["stages"]]
        elif options.starts:
            with self._timed("path") as stage:
                self.bulk = self._to_the_bulk()
                stage.elbo = self.bulk.elbo
            if affine is not None and options.annealing is None:
                with self._timed("affine") as stage:
                    self._climb_affine()
                    done = self.measure()
                    stage.elbo = done.elbo
        enough = done is not None and done.var_log_w < _GOOD_ENOUGH and done.non_finite == 0
        interrupted = self.stopped == "interrupted"
        fixed = not (self.problem.noisy or self.problem.others or self.problem.objective)
        if enough and fixed and not interrupted:
            self.stopped = "affine"
        elif not interrupted:
            with self._timed("flow") as stage:
                self._climb_flow(saved)
                done = self.measure()
                stage.elbo = done.elbo
        if done is None:
            done = self.measure()
        return self._result(done)

    def _to_the_bulk(self) -> Bulk:
        """Finds the bulk and moves the frame there."""
        self.bar.set_postfix_str("to the posterior's bulk")
        dtype, frame = self.problem.wide_dtype, self.posterior.whitening
        generator = torch.Generator("cpu").manual_seed(self.options.seed + self.restart)
        first = frame.loc.detach().to(dtype)
        starts = [first]
        for _ in range(self.options.starts - 1):
            uniform = torch.rand(len(first), generator=generator, dtype=dtype, device="cpu")
            starts.append(4 * uniform.to(first.device) - 2)
        bulk = find_bulk(self.problem.wide, starts, generator)
        if bulk is None:
            where = self.problem.describe(first.to(frame.loc.dtype))
            raise ValueError(
                f"{self.problem.owner} found no finite density at any of {len(starts)} starting "
                f"points{where}. Pass init_loc_fn with values where it is finite, or mend the "
                "model."
            )
        annealing = self.options.annealing
        frame.move(bulk.loc, bulk.scale_tril * (annealing.inflation if annealing else 1.0))
        return bulk

    def _climb_affine(self) -> None:
        """Full-rank ADVI in the frame: the base, the affine layer and the frame alone."""
        affine, frame = self.posterior.affine, self.posterior.whitening
        assert affine is not None
        base = self.posterior.base
        chain = Compose([affine, frame])
        climb = Climb(
            ReverseKL(
                Sampler(base, chain, "path"),
                self.problem.log_density,
                min(_AFFINE_DRAWS, self.options.num_particles),
            ),
            [*base.parameters(), *affine.parameters(), *self.problem.others],
            ClimbPlan(
                owner=self.problem.owner,
                num_steps=_AFFINE_STEPS,
                learning_rate=_AFFINE_RATE,
                clip_norm=_AFFINE_CLIP,
            ),
            self.bar,
        )
        climb.run()
        self._note(climb)

    def _climb_flow(self, saved: dict[str, Any] | None) -> None:
        """The whole flow, by path gradients where they are cheap."""
        options, problem = self.options, self.problem
        trained = [*self.posterior.parameters(), *problem.others]
        if saved is not None:  # first the frame, of which the wide density is made
            _restore(trained, saved["parameters"])
        gradient: Literal["path", "plain"] = "path" if self.path else "plain"
        annealing = None
        if options.annealing is not None:
            frame = self.posterior.whitening
            scale = frame.scale.detach().clone()
            wide = MultivariateNormal(
                frame.loc.detach().clone(), scale_tril=scale if scale.ndim == 2 else scale.diag()
            )
            annealing = wide, options.annealing.share
        objective: Objective
        if problem.objective is not None:
            objective = problem.objective()
        else:
            objective = ReverseKL(
                Sampler(self.posterior.base, self.posterior.transform, gradient),
                problem.log_density,
                options.num_particles,
                annealing,
            )
        fixed = not (problem.noisy or problem.others or problem.objective)
        climb = Climb(
            objective,
            trained,
            ClimbPlan(
                owner=problem.owner,
                num_steps=options.num_steps,
                learning_rate=options.learning_rate,
                clip_norm=options.clip_norm,
                tolerance=options.tolerance if fixed else None,
                measured_from=0.0 if annealing is None else annealing[1],
                checkpoint=options.checkpoint,
                checkpoint_every=options.checkpoint_every,
                callback=options.callback,
            ),
            self.bar,
            header={
                "fingerprint": options.fingerprint(),
                "stages": [list(s) for s in self.stages],
            },
        )
        if saved is not None:
            climb.load_state_dict(saved)
        with nullcontext() if problem.around is None else problem.around():
            climb.run()
        self._note(climb)

    def _note(self, climb: Climb) -> None:
        self.losses, self.best_step = climb.losses, climb.best_step
        self.skipped += climb.skipped
        self.stopped = climb.stopped

    @torch.no_grad()
    def measure(self) -> Diagnostics:
        """What fresh draws say."""
        return diagnostics(
            *score_draws(self.posterior(), self.problem.log_density, self.options.final_draws)[1:]
        )

    def _timed(self, name: str) -> _Timed:
        return _Timed(name, self.stages)

    def _result(self, done: Diagnostics) -> GuideFit:
        bulk = self.bulk
        return GuideFit(
            guide=self.problem.guide,
            elbo=done.elbo,
            elbo_se=done.elbo_se,
            log_evidence=math.nan if self.problem.noisy else done.log_evidence,
            k_hat=math.nan if self.problem.noisy else done.k_hat,
            ess=math.nan if self.problem.noisy else done.ess,
            var_log_w=done.var_log_w,
            losses=self.losses,
            stages=self.stages,
            best_step=self.best_step,
            skipped=self.skipped,
            stopped=self.stopped,
            optima=[] if bulk is None else bulk.optima,
            optima_log_density=[] if bulk is None else bulk.optima_log_density,
        )


class _Timed:
    """Times a stage and writes it down, whatever ends it."""

    def __init__(self, name: str, stages: list[Stage]) -> None:
        self.name, self.elbo, self._stages = name, math.nan, stages

    def __enter__(self) -> _Timed:
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        seconds = time.perf_counter() - self._started
        self._stages.append(Stage(self.name, seconds, self.elbo))


@torch.no_grad()
def score_draws(
    q: FlowDistribution, log_density: LogDensity, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws from a distribution, with both log densities, in chunks that fit in memory.

    Returns:
        Draws ``(count, D)``, log densities of the target and of the distribution ``(count,)``.
    """
    draws, log_p, log_q = [], [], []
    for start in range(0, count, _CHUNK):
        z = q.sample(torch.Size([min(_CHUNK, count - start)]))
        draws.append(z)
        log_q.append(q.log_prob(z))
        log_p.append(_scored(log_density, z))
    return torch.cat(draws), torch.cat(log_p), torch.cat(log_q)


def _scored(log_density: LogDensity, z: Tensor) -> Tensor:
    """The density of rows, minus infinity for those at which the model fails."""
    try:
        return log_density(z)
    except (ConvergenceError, torch.linalg.LinAlgError, ValueError):
        if len(z) == 1:  # a factorisation that failed at an extreme draw, say
            return torch.full((1,), -math.inf, dtype=z.dtype, device=z.device)
    halves = z.split((len(z) + 1) // 2)
    return torch.cat([_scored(log_density, half) for half in halves])


@torch.no_grad()
def _restore(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
