"""What the guides are measured on: targets with exact draws, and posteriors of real data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._guide_scores import Goal
from benchmarks._posterior_targets import TARGETS
from benchmarks.posteriors import POSTERIORS, reference


@dataclass(frozen=True)
class Problem:
    """A model, draws to compare a guide's with, and what a good guide reaches.

    Attributes:
        name: Its name in the tables.
        model: The Pyro model.
        args: Its arguments.
        rows: From draws, site name -> (n, *site_shape), to rows (n, columns).
        reference: Rows of the posterior in independent blocks, (blocks, n, columns).
        log_evidence: The exact log evidence in nats, or None.
        goal: What a fit is to reach.
        has_moments: Whether means and standard deviations can be estimated from such draws.
        has_modes: Whether the two signs of the first column are two modes.
        guide_options: Options of the guide.
        fit_options: Options of the fit.
        for_peers: Whether other guides are fitted too.
    """

    name: str
    model: Callable[..., None]
    args: tuple[Any, ...]
    rows: Callable[[dict[str, Tensor]], Tensor]
    reference: Tensor
    log_evidence: float | None
    goal: Goal
    has_moments: bool = True
    has_modes: bool = False
    guide_options: dict[str, Any] = field(default_factory=dict)
    fit_options: dict[str, Any] = field(default_factory=dict)
    for_peers: bool = True


def target(name: str, key: str, goal: Goal, **options: Any) -> Callable[[], Problem]:
    """A target, with 8 blocks of 10,000 exact draws."""

    def make() -> Problem:
        it = TARGETS[key]()
        exact = it.exact(80_000, torch.Generator().manual_seed(20_000))
        blocks = exact.unflatten(0, (8, -1))
        return Problem(
            name, it.model, it.args, it.unconstrained, blocks, it.log_evidence, goal, **options
        )

    return make


def posterior(name: str, folder: Path) -> Callable[[], Problem]:
    """A posterior of real data, with 10 blocks of 1000 reference draws, a block for each chain."""
    slow = name.startswith(("diamonds", "hudson_lynx_hare"))
    goal = Goal(mean_error=0.1, sd_error=0.05, good_weights=True, seconds=120 if slow else 60)

    def make() -> Problem:
        it = POSTERIORS[name]
        blocks = reference(folder, name).draws.unflatten(0, (10, -1))
        log_evidence = None
        if it.log_evidence is not None:
            log_evidence = it.log_evidence(*it.data(folder, dtype=torch.float64))
        args = it.data(folder)
        return Problem(name, it.model, args, it.constrained, blocks, log_evidence, goal)

    return make


def problems(folder: Path | None) -> dict[str, Callable[[], Problem]]:
    """All problems by name, made when called; the posteriors only with a folder of their data."""
    makers = {
        "gauss": target("gauss", "gauss", Goal(gap=0.005, w1=1.25)),
        "eight": target("eight", "eight", Goal(gap=0.01, ess=0.98, w1=1.25)),
        "eight_centered": target("eight_centered", "eight_centered", Goal(gap=0.05, w1=1.25)),
        "funnel": target("funnel", "funnel", Goal(gap=0.02, ess=0.95, w1=1.25), has_moments=False),
        "banana": target("banana", "banana", Goal(gap=0.005, w1=1.25)),
        "t2": target(
            "t2",
            "t2",
            Goal(k_hat=0.5, ess=0.95),
            has_moments=False,
            guide_options={"tails": "student"},
        ),
        "two_modes": target("two_modes", "two_modes", Goal(modes_or_alarm=True), has_modes=True),
        "two_modes_annealed": target(
            "two_modes_annealed",
            "two_modes",
            Goal(modes=True),
            has_modes=True,
            fit_options={"annealing": True},
            for_peers=False,
        ),
    }
    if folder is not None:
        makers.update({name: posterior(name, folder) for name in POSTERIORS})
    return makers
