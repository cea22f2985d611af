"""Flow guides at their defaults on targets and on posteriors of real data, beside Pyro's guides.

    python -m benchmarks.guides [--data DIR] [--only eight 'garch*'] [--seeds 5]
                                [--guides AutoFlow AutoIAFNormal] [--quick] [--out out]

DIR is a folder with posteriordb's data; without one the posteriors are left out. Each run is
``infer.fit_guide(model, AutoFlow(model), *args, seed=seed)``: only "t2" asks for
``tails="student"`` and only "two_modes_annealed" for ``annealing=True``. Pyro's guides (name them
by --guides) take 3000 steps of Adam at the learning rate .01 with one particle. --quick takes a
tenth of the steps and one seed. Every number is of fresh, unweighted draws: 80,000 for a target,
10,000 for a posterior.

The last table has the worst over the seeds. "gap" is log evidence minus ELBO, with a ~ where the
evidence is estimated by the guide's own weights; "W1" is the Wasserstein distance of the marginals
from exact draws over that of exact draws from each other; "mean" is the largest error of a mean in
standard deviations, "sd" the range of the ratios to the exact ones; "seconds" is the CPU time of
the fit, "stages" the wall-clock time of its stages in the slowest run; "modes" is the mass of the
right one of two modes in each run, with a ! where the report says that one was lost; "goal" counts
the seeds that keep every bound and names the bounds that others miss. One thread.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch

from benchmarks._guide_peers import PEERS, fit_peer
from benchmarks._guide_problems import Problem, problems
from benchmarks._guide_scores import Score, score
from benchmarks._machine import describe
from pyro_nf import infer
from pyro_nf.infer._draws import weighted_draws
from pyro_nf.infer.autoguide import AutoFlow, AutoIAF, AutoNSF, AutoStructuredFlow
from pyro_nf.infer.report import report

OURS: dict[str, Any] = {
    "AutoFlow": AutoFlow,
    "AutoIAF": AutoIAF,
    "AutoNSF": AutoNSF,
    "AutoStructuredFlow": AutoStructuredFlow,
    "AutoStructuredFlow-informed": partial(AutoStructuredFlow, model_informed=True),
}


@dataclass(frozen=True)
class Run:
    """One fit: its score, what of the goal it misses, or why it failed."""

    problem: str
    guide: str
    seed: int
    stages: dict[str, float]
    score: Score | None
    misses: list[str]
    failure: str | None = None


def run(problem: Problem, name: str, seed: int, *, quick: bool) -> Run:
    """Fits one guide to one problem and scores it."""
    pyro.set_rng_seed(seed)
    pyro.clear_param_store()
    stages: dict[str, float] = {}
    start = time.process_time()
    try:
        if name in OURS:
            guide: Any = OURS[name](problem.model, **problem.guide_options)
            options = problem.fit_options | ({"num_steps": 200} if quick else {})
            fit = infer.fit_guide(
                problem.model, guide, *problem.args, seed=seed, progress=False, **options
            )
            stages = {stage.name: round(stage.seconds, 1) for stage in fit.stages}
        else:
            guide = fit_peer(name, problem.model, problem.args, steps=300 if quick else 3000)
        seconds = time.process_time() - start
        result = replace(_score(problem, guide), seconds=seconds)
        if name in OURS and problem.has_modes:
            card = report(problem.model, guide, *problem.args, fit=fit, seed=seed)
            result = replace(result, alarm=bool(card.lost_mode))
    except (ValueError, RuntimeError) as error:  # what a guide dies of is a result too
        failure = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        return Run(problem.name, name, seed, stages, None, ["failed"], failure)
    return Run(problem.name, name, seed, stages, result, problem.goal.misses(result))


@torch.no_grad()
def _score(problem: Problem, guide: Any) -> Score:
    blocks, size = problem.reference.shape[:2]
    # Block by block, to bound the memory that 5000 observations take.
    draws = [weighted_draws(problem.model, guide, problem.args, {}, size) for _ in range(blocks)]
    return score(
        torch.cat([block.log_p for block in draws]),
        torch.cat([block.log_q for block in draws]),
        torch.cat([problem.rows(block.values) for block in draws]),
        problem.reference,
        log_evidence=problem.log_evidence,
        has_moments=problem.has_moments,
        has_modes=problem.has_modes,
    )


HEADER = (
    "| problem | guide | seeds | gap | ESS | k̂ | var(log w) | W1 | mean | sd | seconds | stages "
    "| modes | goal |\n" + "|---" * 14 + "|"
)


def line(runs: list[Run]) -> str:
    """The worst of the runs of one guide on one problem as a line of the table."""
    first = runs[0]
    scores = [run.score for run in runs if run.score is not None]
    head = f"| {first.problem} | {first.guide} | {len(runs)} | "
    goal = _goal(runs)
    if not scores:
        return head + "– | " * 10 + f"{goal}: {first.failure} |"
    worst = {
        "gap": f"{'' if scores[0].exact_gap else '~'}{max(s.gap for s in scores):.4f}",
        "ESS": f"{min(s.ess for s in scores):.3f}",
        "k̂": f"{max(s.k_hat for s in scores):.2f}",
        "var(log w)": f"{max(s.var_log_w for s in scores):.3g}",
        "W1": f"{max(s.w1 for s in scores):.2f}",
        "mean": _worst([s.mean_error for s in scores]),
        "sd": _range([s.sd_low for s in scores], [s.sd_high for s in scores]),
        "seconds": f"{max(s.seconds for s in scores):.0f}",
        "stages": _stages(runs),
        "modes": _modes(scores),
        "goal": goal,
    }
    return head + " | ".join(worst.values()) + " |"


def _goal(runs: list[Run]) -> str:
    missed = sorted({name for run in runs for name in run.misses})
    kept = f"{sum(not run.misses for run in runs)} of {len(runs)}"
    return f"{kept} ({', '.join(missed)})" if missed else kept


def _worst(values: list[float | None]) -> str:
    present = [value for value in values if value is not None]
    return f"{max(present):.3f}" if present else "–"


def _range(low: list[float | None], high: list[float | None]) -> str:
    lows = [value for value in low if value is not None]
    highs = [value for value in high if value is not None]
    return f"{min(lows):.3f}–{max(highs):.3f}" if lows else "–"


def _stages(runs: list[Run]) -> str:
    """The stages with the seconds of the slowest run."""
    slowest = max(runs, key=lambda run: run.score.seconds if run.score else 0.0)
    parts = [f"{name} {seconds:.0f}" for name, seconds in slowest.stages.items()]
    return ", ".join(parts) or "–"


def _modes(scores: list[Score]) -> str:
    """Mass of the right mode in each run, marked where the report gave the alarm."""
    parts = [f"{s.modes:.2f}{' !' if s.alarm else ''}" for s in scores if s.modes is not None]
    return ", ".join(parts) or "–"


def write(runs: list[Run], out: Path) -> str:
    """Writes all runs as JSON and the worst of each as Markdown; returns the latter."""
    grouped: dict[tuple[str, str], list[Run]] = {}
    for each in runs:
        grouped.setdefault((each.problem, each.guide), []).append(each)
    table = "\n".join([describe(), "", HEADER, *(line(group) for group in grouped.values())])
    out.mkdir(parents=True, exist_ok=True)
    record = {"machine": describe(), "runs": [asdict(each) for each in runs]}
    (out / "guides.json").write_text(json.dumps(record, indent=1))
    (out / "guides.md").write_text(table + "\n")
    return table


def main() -> None:
    """Parses the command line, prints a line for each run and the table of the worst."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a folder with posteriordb's data")
    parser.add_argument("--only", nargs="+", default=["*"], help="names or patterns of problems")
    parser.add_argument("--seeds", type=int, default=5)
    names = [*OURS, *PEERS]
    parser.add_argument("--guides", nargs="+", choices=names, default=names[:1], help="which")
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps, one seed")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where the tables go")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs: list[Run] = []
    print(describe(), HEADER, sep="\n\n")
    for name, make in problems(options.data).items():
        if not any(fnmatch(name, pattern) for pattern in options.only):
            continue
        problem = make()
        for guide in options.guides:
            if guide not in OURS and not problem.for_peers:
                continue
            for seed in range(1 if options.quick else options.seeds):
                runs.append(run(problem, guide, seed, quick=options.quick))
                print(line(runs[-1:]), flush=True)
                table = write(runs, options.out)
    if runs:
        print("\nThe worst over the seeds:\n", table, sep="\n")


if __name__ == "__main__":
    main()
