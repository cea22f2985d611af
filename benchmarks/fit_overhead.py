"""What ``fit_density`` costs beyond a bare training loop, per step.

    python -m benchmarks.fit_overhead [--batch 1024] [--repeats 7]

The bare loop takes a batch by index, computes ``-flow().log_prob(x).mean()``, backpropagates,
clips the gradient and steps a fused Adam. Both run on equal flows, interleaved; medians of CPU
time. One thread.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks._machine import describe
from pyro_nf import flows, infer

STEPS = 60
FLOWS: dict[str, Callable[[], nn.Module]] = {
    "realnvp D=6 (64, 64)": lambda: flows.realnvp(6),
    "maf D=6 (64, 64)": lambda: flows.maf(6),
    "nsf D=6 (64, 64)": lambda: flows.nsf(6),
    "maf D=43 (128, 128)": lambda: flows.maf(43, hidden_dims=(128, 128)),
}


def bare_loop(flow: nn.Module, x: Tensor, batch: int) -> None:
    """Trains with nothing around it."""
    optimizer = torch.optim.Adam(flow.parameters(), 1e-3, fused=True)
    order = torch.randperm(len(x))
    for step in range(STEPS):
        start = step * batch % (len(x) - batch)
        rows = x.index_select(0, order[start : start + batch])
        loss = -flow().log_prob(rows).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()


def fitted(flow: nn.Module, x: Tensor, batch: int) -> None:
    """Trains by ``fit_density``, without held-out rows: the loop has none."""
    infer.fit_density(
        flow,
        x,
        batch_size=batch,
        max_steps=STEPS,
        learning_rate=1e-3,
        validation=None,
        progress=False,
    )


def cpu_ms(run: Callable[[nn.Module, Tensor, int], None], *args: object) -> float:
    """CPU milliseconds of one step."""
    start = time.process_time()
    run(*args)
    return (time.process_time() - start) / STEPS * 1e3


def main() -> None:
    """Parses the command line, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(describe())
    print("| flow | bare loop, ms a step | fit_density, ms a step | overhead |")
    print("|---|---|---|---|")
    for name, make in FLOWS.items():
        flow = make()
        size = flow.input_dim
        x = torch.randn(20 * options.batch, size)
        flow.initialize(x)
        times: dict[str, list[float]] = {"bare": [], "fit": []}
        for _ in range(options.repeats + 1):
            times["bare"].append(cpu_ms(bare_loop, copy.deepcopy(flow), x, options.batch))
            times["fit"].append(cpu_ms(fitted, copy.deepcopy(flow), x, options.batch))
        bare, fit = (statistics.median(values[1:]) for values in times.values())
        print(f"| {name} | {bare:.2f} | {fit:.2f} | {100 * (fit / bare - 1):+.0f} % |", flush=True)


if __name__ == "__main__":
    main()
