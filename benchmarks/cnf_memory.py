"""What memory a training step of a continuous layer takes, against zuko's and FFJORD's recipe.

    python -m benchmarks.cnf_memory [--quick]

The layers and the step of :mod:`benchmarks.cnf`, D = 43, hidden layers (64, 64), batch 1024. Each
runs in a process of its own: a first step on four rows loads what is loaded once, then the peak of
the resident memory is reset (Linux), and what a step on the batch adds to it is printed. A second
table has fixed steps, 8 to 128 of them: how the memory grows with the length of a solve.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks._machine import describe
from benchmarks.cnf import MAKERS, candidate, training_step

SIZE, BATCH = 43, 1024
STEPS = (8, 32, 128)
GRADIENTS = ("backprop", "checkpoint", "adjoint")


def resident(key: str) -> int:
    """KiB of this process, now ("VmRSS") or at most since the peak was reset ("VmHWM")."""
    # Not ru_maxrss: that of a process begins at what its parent held.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def added_mib(name: str, steps: int | None) -> float:
    """Peak memory that one step adds in this process, in MiB."""
    torch.set_num_threads(1)
    options: dict[str, Any] = {} if steps is None else {"solver": "rk4", "steps": steps}
    one = candidate(name, SIZE, **options)
    training_step(one, torch.randn(4, SIZE))()
    step = training_step(one, torch.randn(BATCH, SIZE))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    step()
    return (resident("VmHWM") - before) / 1024


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
        print(added_mib(options.measure, options.steps))
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
