"""What Glow costs in pyro_nf, normflows and nflows, and its memory.

    python -m benchmarks.images [--quick] [--compile] [--output DIR]

The same Glow everywhere: levels of steps of an activation normalisation, a 1×1 convolution in
triangular factors and an affine coupling, with standard normals at every level. Before a library
is timed, its flow is given weights of ours and must be the same density as our wiring of its own
scales, within 1e-4 nat on 64 images in float64. What is timed of ours is our own coupling.

``train`` is a step of maximum likelihood (score, backward, fused Adam), ``log_prob`` scores a
batch and ``sample`` draws one, without gradients. All calls take turns in one process: medians of
CPU milliseconds on one thread. "floor" is the couplings' networks alone, channels-last, with the
same Adam. The ratio is ours over the faster other library: below 1 is faster.

Memory is the peak that a training step adds to a process of its own (Linux), against the number
of steps in a level: with all activations kept, with those of about √n segments of a level's n
layers recomputed, and with as many segments as steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
import warnings
from pathlib import Path

import torch

from benchmarks._machine import describe
from benchmarks._peers import images_floor, images_memory, images_ours
from benchmarks._peers.contender import Contender
from benchmarks._peers.images_architecture import (
    IMAGE_OPERATIONS,
    ImageSpec,
    image_specs,
    quick_image_specs,
)
from benchmarks._peers.libraries import COMPILED, OURS, ready
from benchmarks._peers.parity import difference, verdict
from benchmarks._peers.table import Row, markdown, notes
from benchmarks._peers.timing import clock_of, measure

PEERS = ("normflows", "nflows")


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="the small images alone, without memory")
    add("--compile", action="store_true", help="add pyro_nf with both directions compiled")
    add("--repeats", type=int, default=25)
    add("--output", type=Path, help="folder for results.json and table.md")
    add("--memory", nargs=2, metavar=("STEPS", "ACTIVATIONS"), help=argparse.SUPPRESS)
    return parser.parse_args()


def contenders(spec: ImageSpec, *, compiled: bool = False) -> dict[str, Contender]:
    """Creates what is timed of one architecture; a library that is not installed is left out."""
    found = {OURS: ready(spec, images_ours.model(spec))}
    if compiled:
        model = images_ours.model(spec)
        model.module.compile()
        found[COMPILED] = ready(spec, model)
    for name in PEERS:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            print(f"not installed: {name}")
            continue
        build = importlib.import_module(f"benchmarks._peers.images_{name}").build
        words, failed = verdict(difference(spec, build))
        found[name] = ready(spec, build(spec))
        found[name].parity, found[name].failed = words, failed
    return found | {"floor": images_floor.contender(spec)}


def timed(spec: ImageSpec, repeats: int, *, compiled: bool) -> tuple[list[Row], bool]:
    """Checks and times one architecture; the second value says whether a check failed."""
    found = contenders(spec, compiled=compiled)
    for name, one in found.items():
        print(f"  {name}: {one.parameters} parameters. {one.parity}", flush=True)
    cells = {
        (name, operation): (one.setting, one.cells[operation])
        for operation in IMAGE_OPERATIONS
        for name, one in found.items()
        if not one.failed
    }
    ms = measure(cells, repeats=repeats, budget=60.0, clock=clock_of("cpu"))
    rows = [
        Row(
            spec,
            operation,
            {name: ms[name, operation] for name in found if (name, operation) in ms},
            {name: one.parameters for name, one in found.items()},
            {name: one.parity for name, one in found.items()},
        )
        for operation in IMAGE_OPERATIONS
    ]
    return rows, any(one.failed for one in found.values())


def save(
    folder: Path, head: str, rows: list[Row], memory: dict[str, images_memory.Growth]
) -> None:
    """Writes results and tables."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "machine": head,
        "rows": [dataclasses.asdict(row) for row in rows],
        "memory": {name: dataclasses.asdict(one) for name, one in memory.items()},
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    (folder / "table.md").write_text(f"{head}\n\n{report(rows, memory)}\n")


def report(rows: list[Row], memory: dict[str, images_memory.Growth]) -> str:
    """Puts the tables and the notes together."""
    parts = [markdown(rows), "\n".join(f"- {note}" for note in notes(rows))]
    return "\n\n".join(parts + ([images_memory.table(memory)] if memory else []))


def main() -> None:
    """Parses the command line, times, prints the tables; exits with 1 if a check failed."""
    options = parse()
    torch.set_num_threads(1)
    if options.memory:
        print(images_memory.step_mib(int(options.memory[0]), options.memory[1]))
        return
    warnings.filterwarnings("ignore", category=UserWarning, module="nflows|torch")  # theirs
    head = f"{describe()}; {clock_of('cpu').name}, float32"
    print(head)
    rows: list[Row] = []
    failed = False
    for spec in quick_image_specs() if options.quick else image_specs():
        print(spec, flush=True)
        found, bad = timed(spec, options.repeats, compiled=options.compile)
        rows, failed = rows + found, failed or bad
    memory = {} if options.quick else images_memory.growths()
    print(f"\n{report(rows, memory)}")
    if options.output:
        save(options.output, head, rows, memory)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
