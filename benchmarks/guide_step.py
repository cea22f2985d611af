"""What one step of a flow guide costs: draws, kinds of gradient, and Pyro's own way.

    python -m benchmarks.guide_step [--repeats 9]

A guide of ten couplings on a normal target of ten dimensions: steps of ``fit_guide`` with 1 and
with 256 draws, by path and by plain gradients; and a step of ``pyro.infer.SVI`` with the same
guide. All interleaved; medians of CPU time. One thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO

from benchmarks._machine import describe
from pyro_nf import infer
from pyro_nf.infer.autoguide import AutoFlow

STEPS = 40


def model() -> None:
    """A normal target of ten dimensions."""
    pyro.sample("x", dist.Normal(torch.zeros(10), 1.0).to_event(1))


def fitting(draws: int, *, path: bool) -> Callable[[], float]:
    """Returns what measures steps of ``fit_guide``, without its set-up."""
    guide = AutoFlow(model, path_gradient=path).setup()

    def run() -> float:
        times: list[float] = []
        infer.fit_guide(
            model,
            guide,
            starts=0,
            num_steps=STEPS,
            num_particles=draws,
            final_draws=10,
            tolerance=None,
            progress=False,
            callback=lambda step, elbo: times.append(time.process_time()),
        )
        return (times[-1] - times[4]) / (STEPS - 5) * 1e3

    return run


def svi(draws: int) -> Callable[[], float]:
    """Returns what measures steps of Pyro's SVI."""
    guide = AutoFlow(model).setup()
    elbo = Trace_ELBO(num_particles=draws, vectorize_particles=True, max_plate_nesting=0)
    optimizer = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), elbo)
    optimizer.step()

    def run() -> float:
        start = time.process_time()
        for _ in range(STEPS):
            optimizer.step()
        return (time.process_time() - start) / STEPS * 1e3

    return run


def main() -> None:
    """Parses the command line, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = {
        "fit_guide, 1 draw, path": fitting(1, path=True),
        "fit_guide, 256 draws, path": fitting(256, path=True),
        "fit_guide, 256 draws, plain": fitting(256, path=False),
        "SVI, 256 draws, plain": svi(256),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.repeats + 1):
        for name, run in cases.items():
            times[name].append(run())
    print(describe())
    print("| step | CPU ms | over 1 draw |")
    print("|---|---|---|")
    one = times["fit_guide, 1 draw, path"][1:]
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values[1:], one, strict=True))
        print(f"| {name} | {statistics.median(values[1:]):.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
