"""What memory a training step of a continuous layer takes, against zuko's and FFJORD's recipe.

    python -m benchmarks.cnf_memory [--quick]

The layers and the step of :mod:`benchmarks.cnf`, D = 43, hidden layers (64, 64), batch 1024. Each
runs in a process of its own: a first step on four rows loads what is loaded once, then the peak of
the resident memory is reset (Linux), and what a step on the batch adds to it is printed. A second
table has fixed steps, 8 to 128 of them: how the memory grows with the length of a solve.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any

import torch

from benchmarks._machine import describe
from benchmarks._memory import added_mib
from benchmarks.cnf import MAKERS, candidate, training_step

SIZE, BATCH = 43, 1024
STEPS = (8, 32, 128)
GRADIENTS = ("backprop", "checkpoint", "adjoint")


def of_step(name: str, steps: int | None) -> float:
    """Peak memory that one step adds in this process, in MiB."""
    torch.set_num_threads(1)
    options: dict[str, Any] = {} if steps is None else {"solver": "rk4", "steps": steps}
    one = candidate(name, SIZE, **options)
    training_step(one, torch.randn(4, SIZE))()
    return added_mib(training_step(one, torch.randn(BATCH, SIZE)))


def in_own_process(name: str, steps: int | None = None) -> float:
    """The same, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.cnf_memory", "--measure", name]
    if steps is not None:
        command += ["--steps", str(steps)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Parses the command line, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the second table up to 32 steps")
    parser.add_argument("--measure", choices=MAKERS, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(of_step(options.measure, options.steps))
        return
    print(describe())
    print("| layer | a step adds, MiB |\n|---|---|")
    for name in MAKERS:
        print(f"| {name} | {in_own_process(name):.0f} |", flush=True)
    counts = STEPS[:2] if options.quick else STEPS
    print("\n| rk4, gradient | " + " | ".join(f"{n} steps, MiB" for n in counts) + " |")
    print("|---" * (1 + len(counts)) + "|")
    for gradient in GRADIENTS:
        cells = [f"{in_own_process(f'ours, {gradient}', steps):.0f}" for steps in counts]
        print(f"| {gradient} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
