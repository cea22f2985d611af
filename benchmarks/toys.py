"""Fits a flow to 2-D toys at the defaults and prints how far its test loss is from the entropy.

    python -m benchmarks.toys [--toys moons rings] [--flow nsf] [--points 50000] [--picture FILE]

The gap is the mean of log p - log q over fresh test points, an unbiased estimate of KL(p‖q); its
standard error is over the test points. One thread.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from torch import Tensor

from benchmarks._machine import describe
from benchmarks.toy_densities import TOYS
from pyro_nf import flows, infer

TARGETS = {
    "moons": 0.02,
    "circles": 0.02,
    "8gaussians": 0.02,
    "2spirals": 0.04,
    "checkerboard": 0.06,
    "rings": 0.08,
}


def gap(name: str, flow_name: str, points: int, seed: int) -> dict[str, float | str]:
    """Fits one toy and measures the gap on 50,000 fresh points."""
    toy = TOYS[name]
    train = toy.sample(points, torch.Generator().manual_seed(seed)).float()
    test = toy.sample(50_000, torch.Generator().manual_seed(seed + 1000))
    torch.manual_seed(seed)
    flow = getattr(flows, flow_name)(2)
    start = time.perf_counter()
    infer.fit_density(flow, train, seed=seed, progress=False)
    seconds = time.perf_counter() - start
    exact = toy.log_prob(test)
    difference: Tensor = exact - score(flow, test.float()).double()
    return {
        "toy": name,
        "entropy": -exact.mean().item(),
        "gap": difference.mean().item(),
        "se": (difference.std() / len(test) ** 0.5).item(),
        "target": TARGETS[name],
        "seconds": seconds,
        "seed": seed,
    }


@torch.no_grad()
def score(flow: torch.nn.Module, x: Tensor) -> Tensor:
    """Scores the rows in blocks."""
    return torch.cat([flow().log_prob(rows) for rows in x.split(10_000)])


def main() -> None:
    """Parses the command line, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toys", nargs="+", default=list(TOYS), choices=list(TOYS))
    parser.add_argument("--flow", default="nsf")
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", help="also write the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(describe())
    print("| toy | seed | entropy | gap (nats) | ± | target | seconds |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for name in options.toys:
        for seed in range(options.seeds):
            row = gap(name, options.flow, options.points, seed)
            rows.append(row)
            print(
                f"| {name} | {seed} | {row['entropy']:.3f} | {row['gap']:.4f} | {row['se']:.4f} | "
                f"{row['target']} | {row['seconds']:.0f} |",
                flush=True,
            )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
