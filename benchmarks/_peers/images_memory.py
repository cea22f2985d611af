"""Memory and time of a Glow's training step against its number of steps a level (Linux)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks._memory import added_mib
from benchmarks._peers import images_ours
from benchmarks._peers.images_architecture import ImageSpec
from benchmarks._peers.timing import clock_of, measure
from pyro_nf.distributions import Flow

STEPS = (4, 8, 16, 32)
ACTIVATIONS = ("kept", "recomputed", "each step recomputed")


@dataclass
class Growth:
    """What a training step costs with one choice of activations.

    Attributes:
        mib: Peak memory that it adds, by steps a level.
        ms: Its time with the most steps.
    """

    mib: dict[int, float]
    ms: float

    @property
    def slope(self) -> float:
        """MiB for each further step a level, by least squares."""
        return float(np.polyfit(list(self.mib), list(self.mib.values()), 1)[0])


def make(steps: int, activations: str) -> Flow:
    """Creates a Glow of 3×32×32 with one choice of activations."""
    built = images_ours.flow(_spec(steps))
    if activations == "recomputed":
        return built.recompute_activations()
    if activations == "each step recomputed":
        return built.recompute_activations(steps)
    return built


def _spec(steps: int) -> ImageSpec:
    return ImageSpec((3, 32, 32), 16, 64, 3, steps)


def training_step(flow: Flow) -> Callable[[Tensor], None]:
    """Returns a step of maximum likelihood on given images."""
    optimizer = torch.optim.Adam(flow.parameters(), 1e-4, fused=True)

    def step(x: Tensor) -> None:
        (-flow().log_prob(x).mean()).backward()
        optimizer.step()
        # Set to zero, not given back, so that a step adds activations alone.
        optimizer.zero_grad(set_to_none=False)

    return step


def step_mib(steps: int, activations: str) -> float:
    """Peak memory that one step adds in this process, in MiB."""
    step = training_step(make(steps, activations))
    step(torch.randn(1, 3, 32, 32))  # makes gradients and Adam's averages
    x = torch.randn(_spec(steps).batch, 3, 32, 32)
    return added_mib(lambda: step(x))


def growths(counts: Sequence[int] = STEPS) -> dict[str, Growth]:
    """Measures memory, each number in a process of its own, and times the largest."""
    mib = {name: {count: _in_a_process(count, name) for count in counts} for name in ACTIVATIONS}
    ms = _times(counts[-1])
    return {name: Growth(mib[name], ms[name]) for name in ACTIVATIONS}


def _in_a_process(steps: int, activations: str) -> float:
    # What is freed goes back at once (glibc), so that the peak is of what lives together.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "benchmarks.images", "--memory", str(steps), activations]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout)


def _times(steps: int) -> dict[str, float]:
    x, flow = torch.randn(_spec(steps).batch, 3, 32, 32), {n: make(steps, n) for n in ACTIVATIONS}
    runs = {name: training_step(one) for name, one in flow.items()}
    cells = {name: (nullcontext, lambda run=run: run(x)) for name, run in runs.items()}
    return measure(cells, repeats=5, budget=60.0, clock=clock_of("cpu"))


def table(found: dict[str, Growth]) -> str:
    """The measurements as Markdown."""
    kept = found["kept"]
    counts = [*kept.mib]
    head = ["memory of a step, MiB by steps a level", *map(str, counts)]
    head += ["MiB a step", "of kept", f"time at {counts[-1]}"]
    lines = [head, ["---"] * len(head)]
    for name, one in found.items():
        row = [name, *(f"{mib:.0f}" for mib in one.mib.values()), f"{one.slope:.2f}"]
        lines.append([*row, f"{one.slope / kept.slope:.2f}", f"{one.ms / kept.ms:.2f}"])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
