"""How the cost of flows grows: with dimensions, batch, layers, bins, draws; and their memory.

    python -m benchmarks.scaling [--quick] [--output out]

A training step (forward, backward, fused Adam) of three flows, one variable at a time, the others
at their reference values; and ``flow().sample`` against the number of draws. All are interleaved
in one process: medians of CPU time, float32, one thread. Each exponent is the slope of a line
through the upper half of a range in logarithms, by least squares, where what a step costs besides
arithmetic no longer rules.

Memory is the peak that a step adds to a process of its own (Linux), of deep neural spline flows
with and without ``recompute_activations()``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks._machine import describe
from benchmarks._memory import added_mib
from pyro_nf import flows
from pyro_nf.distributions import Flow

REFERENCE = {"dimensions": 8, "batch": 512, "layers": 5, "bins": 12, "draws": 512}
RANGES = {
    "dimensions": (4, 8, 16, 32, 64, 128, 256),
    "batch": (64, 256, 1024, 4096, 16384),
    "layers": (2, 4, 8, 16, 32),
    "bins": (4, 8, 16, 32, 64),
    "draws": (64, 256, 1024, 4096, 16384),
}
FLOWS = ("realnvp", "maf", "nsf")
MEMORY_LAYERS, MEMORY_BATCH = (4, 8, 16, 32, 64), 4096
MEMORY = {"kept": 0, "recomputed": None}

Curve = Mapping[int, float]  # cost by the variable's value


@dataclass(frozen=True)
class Panel:
    """One picture: the curves of one variable.

    Attributes:
        variable: What varies.
        unit: What is measured.
        curves: Each by its name.
    """

    variable: str
    unit: str
    curves: Mapping[str, Curve]


def make(name: str, sizes: Mapping[str, int]) -> Flow:
    """Creates a flow of given sizes."""
    options: dict[str, int] = {"bins": sizes["bins"]} if name == "nsf" else {}
    make: Callable[..., Flow] = getattr(flows, name)
    return make(sizes["dimensions"], transforms=sizes["layers"], **options)


def training_step(flow: Flow) -> Callable[[Tensor], None]:
    """Returns a step of maximum likelihood on given rows."""
    optimizer = torch.optim.Adam(flow.parameters(), 1e-4, fused=True)

    def step(x: Tensor) -> None:
        (-flow().log_prob(x).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def task(name: str, variable: str, value: int) -> Callable[[], object]:
    """What is timed at one point of one curve."""
    sizes = {**REFERENCE, variable: value}
    flow = make(name, sizes)
    if variable == "draws":
        return lambda: flow().sample((value,))
    step, x = training_step(flow), torch.randn(sizes["batch"], sizes["dimensions"])
    return lambda: step(x)


def time_panels(ranges: Mapping[str, Sequence[int]], repeats: int) -> Iterator[Panel]:
    """Times every variable, its points interleaved; the first round warms up."""
    for variable, values in ranges.items():
        names = ("nsf",) if variable == "bins" else FLOWS
        points = [(name, value) for value in values for name in names]
        runs = {point: task(point[0], variable, point[1]) for point in points}
        times: dict[tuple[str, int], list[float]] = {point: [] for point in points}
        for _ in range(repeats + 1):
            for point, run in runs.items():
                start = time.process_time()
                run()
                times[point].append((time.process_time() - start) * 1e3)
        curves = {
            name: {value: statistics.median(times[name, value][1:]) for value in values}
            for name in names
        }
        what = "sampling" if variable == "draws" else "training step"
        yield Panel(variable, f"{what}, ms", curves)


def step_memory(layers: int, segments: int | None) -> float:
    """Peak memory that one step of a deep flow adds in this process, in MiB."""
    torch.set_num_threads(1)
    flow = make("nsf", {**REFERENCE, "layers": layers}).recompute_activations(segments)
    step = training_step(flow)
    step(torch.randn(4, REFERENCE["dimensions"]))  # makes Adam's averages
    x = torch.randn(MEMORY_BATCH, REFERENCE["dimensions"])
    return added_mib(lambda: step(x))


def memory_panel(layers: Sequence[int]) -> Panel:
    """Measures the memory of training steps, each in a process of its own."""
    # What is freed goes back at once (glibc), so that the peak is of what lives together.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}

    def measured(name: str, count: int) -> float:
        command = [sys.executable, "-m", "benchmarks.scaling", "--memory", name, str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        return float(done.stdout)

    curves = {name: {count: measured(name, count) for count in layers} for name in MEMORY}
    return Panel("layers", "memory of a step, MiB", curves)


def power_law(curve: Curve) -> tuple[float, Curve]:
    """The exponent of the upper half of a curve, and the line fitted to it."""
    upper = sorted(curve)[len(curve) // 2 :]
    logs = np.log(upper)
    slope, offset = np.polyfit(logs, np.log([curve[value] for value in upper]), 1)
    line = np.exp(offset + slope * logs)
    return float(slope), dict(zip(upper, line.tolist(), strict=True))


def table(panel: Panel) -> str:
    """One panel as a Markdown table, its exponents in the last column."""
    values = sorted(next(iter(panel.curves.values())))
    heads = [f"{panel.unit} by {panel.variable}", *map(str, values), "exponent"]
    rows = [
        [name, *(f"{curve[value]:.3g}" for value in values), f"{power_law(curve)[0]:.2f}"]
        for name, curve in panel.curves.items()
    ]
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Draws each panel on logarithmic axes, the exponents in its legend."""
    from matplotlib.figure import Figure  # an extra; no window, no global state
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure = Figure(figsize=(15, 8), layout="constrained")
    for axis, panel in zip(figure.subplots(2, 3).flat, panels, strict=False):
        for name, curve in panel.curves.items():
            slope, line = power_law(curve)
            label = f"{name}: {panel.variable}$^{{{slope:.2f}}}$"
            (drawn,) = axis.plot(list(curve), list(curve.values()), "o-", label=label)
            axis.plot(list(line), list(line.values()), "--", color=drawn.get_color(), alpha=0.6)
        ticks = list(next(iter(panel.curves.values())))
        axis.set(xscale="log", yscale="log", xlabel=panel.variable, ylabel=panel.unit)
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.set_xticks([], minor=True)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
        axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def main() -> None:
    """Parses the command line, prints the tables, draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short ranges, two repeats")
    parser.add_argument("--output", type=Path, default=Path("out"))
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        name, count = options.memory
        print(step_memory(int(count), MEMORY[name]))
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(describe() + "\n")
    shorten = (lambda values: values[:4]) if options.quick else (lambda values: values)
    panels = []
    for panel in time_panels(
        {name: shorten(values) for name, values in RANGES.items()}, 2 if options.quick else 7
    ):
        panels.append(panel)
        print(table(panel), flush=True)
    panels.append(memory_panel(shorten(MEMORY_LAYERS)))
    print(table(panels[-1]))
    path = options.output / "scaling.png"
    draw(panels, path)
    print(f"Drawn in {path}.")


if __name__ == "__main__":
    main()
