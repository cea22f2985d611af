"""What flows cost in pyro_nf and in the other libraries, architecture by architecture.

    python -m benchmarks.peers [--quick | --all] [--output DIR]

Each family is built with the same layers, conditioners and numbers of weights in pyro_nf, Pyro,
zuko, nflows, normflows and flowjax, as far as they have it and are installed. Before a library in
torch is timed, its flow is given weights of ours and must be the same density as our wiring of its
own parametrisation (of scales, bins and slopes), within 1e-4 nat on 64 rows in float64; where
weights do not correspond, the notes below the table say so. What is timed of ours is our own
default bijection.

``log_prob`` scores a batch without gradients, ``train`` is a step of maximum likelihood (score,
backward, Adam), ``sample`` draws without gradients, ``vi`` is a step of variational inference with
a standard normal target (draw, score the draw, backward, Adam), ``inverse_grad`` the gradient of a
draw with respect to the weights. "maf_inverse" is one layer of a MAF drawn from, its slow
direction; "nsf_inverse" an autoregressive spline flow that is fast to draw from.

The optimiser is the same fused Adam for all in torch, optax's for flowjax, whose every operation
is one compiled call. All calls take turns in one process: medians of CPU milliseconds on one
thread, or of wall time on an accelerator. Zuko runs without torch's validation of arguments, which
importing it turns off; all others run with it.

"floor" is the conditioners alone, as dense perceptrons with the same Adam; "products" their matrix
products alone. The ratio is ours over the fastest other library in torch: below 1 is faster.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks._machine import describe
from benchmarks._peers import continuous, libraries
from benchmarks._peers.architecture import (
    FAMILIES,
    OPERATIONS,
    Spec,
    all_specs,
    main_specs,
    quick_specs,
)
from benchmarks._peers.contender import Contender, Setting
from benchmarks._peers.picture import draw
from benchmarks._peers.table import Row, markdown, memory_markdown, notes
from benchmarks._peers.timing import clock_of, measure


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    add("--sizes", nargs="+", metavar="D:B", help="sizes instead of those of the main list")
    add("--all", action="store_true", help="every combination that makes sense")
    add("--quick", action="store_true", help="one small size of each family, in 3 minutes")
    add("--operations", nargs="+", choices=OPERATIONS, default=list(OPERATIONS))
    add("--libraries", nargs="+", choices=libraries.LIBRARIES, default=list(libraries.LIBRARIES))
    add("--transforms", type=int, help="layers instead of the family's own number")
    add("--repeats", type=int, default=15)
    add("--budget", type=float, help="seconds of timing for one architecture; 12, quick 1.5")
    add("--dtype", choices=("float32", "float64"), default="float32")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--compile", action="store_true", help="add pyro_nf with both directions compiled")
    add("--output", type=Path, help="folder for results.json, table.md and picture.png")
    return parser.parse_args(arguments)


def chosen_specs(options: argparse.Namespace) -> list[Spec]:
    """The architectures that the command line asks for."""
    if options.sizes:
        pairs = [tuple(map(int, size.split(":"))) for size in options.sizes]
        specs = [Spec(family, *pair) for family in options.families for pair in pairs]
    elif options.all:
        specs = all_specs()
    else:
        specs = quick_specs() if options.quick else main_specs()
    specs = [spec for spec in specs if spec.family in options.families]
    specs = [spec for spec in specs if set(spec.kind.operations) & set(options.operations)]
    if options.device == "cuda":
        specs = [spec for spec in specs if spec.family != "cnf"]  # its benchmark is of the CPU
    return [dataclasses.replace(spec, layers=options.transforms) for spec in specs]


def timed(spec: Spec, options: argparse.Namespace) -> tuple[list[Row], bool]:
    """Checks and times one architecture; the second value says whether a check failed."""
    found = libraries.contenders(
        spec,
        options.libraries,
        device=options.device,
        compiled=options.compile,
        quick=options.quick,
    )
    for name, one in found.items():
        print(f"  {name}: {one.parameters} parameters. {one.parity}", flush=True)
    operations = [name for name in spec.kind.operations if name in options.operations]
    cells: dict[tuple[str, str], tuple[Setting, Callable[[], object]]] = {
        (name, operation): (one.setting, one.cells[operation])
        for operation in operations  # what a ratio compares lies close in time
        for name, one in found.items()
        if operation in one.cells and not one.failed
    }
    budget = options.budget or (1.5 if options.quick else 12.0)
    clock = clock_of(options.device)
    ms = measure(cells, repeats=options.repeats, budget=budget, clock=clock)
    rows = [_row(spec, operation, found, ms) for operation in operations]
    return rows, any(one.failed for one in found.values())


def _row(
    spec: Spec, operation: str, found: dict[str, Contender], ms: dict[tuple[str, str], float]
) -> Row:
    return Row(
        spec,
        operation,
        {name: ms[name, operation] for name in found if (name, operation) in ms},
        {name: one.parameters for name, one in found.items()},
        {name: one.parity for name, one in found.items()},
    )


def report(rows: Sequence[Row], memory: dict[str, float]) -> str:
    """Puts the tables and the notes together."""
    usual = [row for row in rows if row.spec.family != "cnf"]
    continuous_rows = [row for row in rows if row.spec.family == "cnf"]
    parts = [markdown(part) for part in (usual, continuous_rows) if part]
    if memory:
        parts.append(memory_markdown(memory))
    parts += ["\n".join(f"- {note}" for note in notes(rows))]
    return "\n\n".join(part for part in parts if part)


def save(folder: Path, rows: Sequence[Row], memory: dict[str, float], head: str) -> None:
    """Writes results, table and picture."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "machine": head,
        "rows": [dataclasses.asdict(row) for row in rows],
        "memory": memory,
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    (folder / "table.md").write_text(f"{head}\n\n{report(rows, memory)}\n")
    draw(rows, folder / "picture.png", head)


def main() -> None:
    """Parses the command line, times, prints the tables; exits with 1 if a check failed."""
    options = parse()
    torch.set_num_threads(1)
    torch.set_default_dtype(getattr(torch, options.dtype))
    start = time.perf_counter()
    head = f"{describe()}; {clock_of(options.device).name}, {options.dtype}"
    print(head)
    missing = [name for name in options.libraries if name not in libraries.installed()]
    if missing:
        print(f"not installed: {', '.join(missing)}")
    rows: list[Row] = []
    failed = False
    for spec in chosen_specs(options):
        print(spec, flush=True)
        found, bad = timed(spec, options)
        rows, failed = rows + found, failed or bad
    has_cnf = any(row.spec.family == "cnf" for row in rows)
    memory = continuous.memory(quick=options.quick) if has_cnf else {}
    print(f"\n{report(rows, memory)}\n\n{time.perf_counter() - start:.0f} s in all")
    if options.output:
        save(options.output, rows, memory, head)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
