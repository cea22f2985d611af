"""Continuous flows on 2-D densities: likelihood, regularisation, flow matching.

    python -m benchmarks.continuous_toys [--what likelihood regularised matching] [--toys moons]

Trained on 50,000 points by 2000 steps of 256 at the learning rate 1e-2, from weights of gain 5/3,
in training by rk4 with 8 steps; scored by dopri5 at the default tolerance. The gap is the mean of
log p - log q over 20,000 fresh points, an estimate of KL(p‖q), with its standard error;
"evaluations" is how often the field is evaluated to score these points; "seconds" is the CPU time
of the fit. "likelihood" is ``flows.cnf(2)``. To be set beside it: "regularised" is the same with a
kinetic weight, ``flows.rnode`` and ``flows.ot_flow``; "matching" the same trained by flow matching
(3000 steps at its own learning rate), with either coupling. One thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks._machine import describe
from benchmarks.toy_densities import TOYS
from pyro_nf import flows, infer
from pyro_nf.distributions import Flow
from pyro_nf.transforms import Continuous

ALL = ("moons", "8gaussians", "rings", "checkerboard", "2spirals")
CHEAP: dict[str, Any] = {"solver": "rk4", "steps": 8, "eval_solver": "dopri5", "gain": 5 / 3}
FIT: dict[str, Any] = {
    "max_steps": 2000,
    "batch_size": 256,
    "patience": None,
    "validate_every": 500,
    "progress": False,
}


@dataclass(frozen=True)
class Run:
    """A flow and how it is trained."""

    make: Callable[[], Flow]
    fit: Callable[[Flow, Tensor], object]


def by_likelihood(flow: Flow, x: Tensor) -> object:
    """Maximum likelihood with the flow's own regularisation."""
    return infer.fit_density(flow, x, learning_rate=1e-2, **FIT)


def with_kinetic_energy(flow: Flow, x: Tensor) -> object:
    """Maximum likelihood and a weight on the kinetic energy."""
    return infer.fit_density(flow, x, learning_rate=1e-2, aux_weights={"kinetic": 0.6}, **FIT)


def matched(coupling: Any, steps: int) -> Callable[[Flow, Tensor], object]:
    """Flow matching."""

    def fit(flow: Flow, x: Tensor) -> object:
        options = {**FIT, "max_steps": steps}
        return infer.fit_flow_matching(flow, x, coupling=coupling, **options)

    return fit


def cnf() -> Flow:
    """The flow that all of them train."""
    return flows.cnf(2, **CHEAP)


KINDS: dict[str, tuple[tuple[str, ...], dict[str, Run]]] = {
    "likelihood": (ALL, {"cnf": Run(cnf, by_likelihood)}),
    "regularised": (
        ("moons", "8gaussians"),
        {
            "cnf, kinetic 0.6": Run(cnf, with_kinetic_energy),
            "rnode": Run(lambda: flows.rnode(2, gain=5 / 3), by_likelihood),
            "ot_flow": Run(lambda: flows.ot_flow(2), by_likelihood),
        },
    ),
    "matching": (
        ("moons",),
        {
            "cnf, matching, optimal transport": Run(cnf, matched("optimal_transport", 3000)),
            "cnf, matching, independent": Run(cnf, matched("independent", 3000)),
        },
    ),
}


def measure(toy_name: str, run: Run) -> str:
    """The row of one run, but for its names."""
    toy = TOYS[toy_name]
    x = toy.sample(50_000, torch.Generator().manual_seed(0)).float()
    test = toy.sample(20_000, torch.Generator().manual_seed(1000))
    torch.manual_seed(0)
    flow = run.make()
    start = time.process_time()
    run.fit(flow, x)
    seconds = time.process_time() - start
    flow.eval()
    with torch.no_grad():
        scores = flow().log_prob(test.float()).double()
    gaps = toy.log_prob(test) - scores
    layers = [part for part in flow.modules() if isinstance(part, Continuous)]
    evaluations = sum(layer.evaluations.forward for layer in layers)
    error = gaps.std() / len(gaps) ** 0.5
    return (
        f"{-float(scores.mean()):.3f} | {float(gaps.mean()):.4f} | {float(error):.4f} "
        f"| {evaluations} | {seconds:.0f}"
    )


def main() -> None:
    """Parses the command line, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--toys", nargs="+", choices=ALL)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(describe())
    for what in options.what:
        toys, runs = KINDS[what]
        print("\n| toy | trained | nats per point | gap | ± | evaluations | seconds |")
        print("|---|---|---|---|---|---|---|")
        for toy in options.toys or toys:
            for name, run in runs.items():
                print(f"| {toy} | {name} | {measure(toy, run)} |", flush=True)


if __name__ == "__main__":
    main()
