"""Fits flows to 2-D toys at the defaults and prints how far test losses are from the entropy.

    python -m benchmarks.toys [--toys moons rings] [--flows nsf maf | all] [--points 50000]

The gap is the mean of log p - log q over fresh test points, an unbiased estimate of KL(p‖q); its
standard error is over the test points. A flow on angles sees the points modulo 2π. One thread.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time

import torch
from torch import Tensor

from benchmarks._machine import describe
from benchmarks.toy_densities import TOYS, Toy
from pyro_nf import flows, infer


def gap(name: str, flow_name: str, points: int, seed: int) -> dict[str, float | str]:
    """Fits one flow to one toy and measures the gap on 50,000 fresh points."""
    toy = TOYS[name]
    on_torus = flow_name == "circular_nsf"
    train = _seen(toy.sample(points, torch.Generator().manual_seed(seed)), on_torus)
    test = toy.sample(50_000, torch.Generator().manual_seed(seed + 1000))
    torch.manual_seed(seed)
    flow = getattr(flows, flow_name)(2)
    start = time.perf_counter()
    infer.fit_density(flow, train, seed=seed, progress=False)
    seconds = time.perf_counter() - start
    flow.eval()  # a continuous flow scores by another solver than it trains with
    exact = _wrapped_log_prob(toy, test) if on_torus else toy.log_prob(test)
    difference: Tensor = exact - score(flow, _seen(test, on_torus)).double()
    return {
        "toy": name,
        "flow": flow_name,
        "parameters": sum(parameter.numel() for parameter in flow.parameters()),
        "entropy": -exact.mean().item(),
        "gap": difference.mean().item(),
        "se": (difference.std() / len(test) ** 0.5).item(),
        "seconds": seconds,
        "seed": seed,
    }


def _seen(x: Tensor, on_torus: bool) -> Tensor:  # noqa: FBT001
    """The points as the flow sees them: in float32, modulo 2π on the torus."""
    wrapped = torch.remainder(x + math.pi, 2 * math.pi) - math.pi
    return (wrapped if on_torus else x).float()


def _wrapped_log_prob(toy: Toy, x: Tensor) -> Tensor:
    """The log density of the toy modulo 2π: the sum over its nearest copies."""
    turns = 2 * math.pi * torch.cartesian_prod(*2 * [torch.arange(-1.0, 2.0, dtype=x.dtype)])
    return torch.stack([toy.log_prob(x + turn) for turn in turns]).logsumexp(0)


@torch.no_grad()
def score(flow: torch.nn.Module, x: Tensor) -> Tensor:
    """Scores the rows in blocks."""
    return torch.cat([flow().log_prob(rows) for rows in x.split(10_000)])


def main() -> None:
    """Parses the command line, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toys", nargs="+", default=list(TOYS), choices=list(TOYS))
    parser.add_argument("--flows", nargs="+", default=["nsf"], help="names, or all")
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", help="also write the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(describe())
    print("| toy | flow | parameters | seed | entropy | gap (nats) | ± | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    names = list(flows.__all__) if options.flows == ["all"] else options.flows
    for toy, flow, seed in itertools.product(options.toys, names, range(options.seeds)):
        row = gap(toy, flow, options.points, seed)
        rows.append(row)
        print(
            f"| {toy} | {flow} | {row['parameters']} | {seed} | {row['entropy']:.3f} | "
            f"{row['gap']:.4f} | {row['se']:.4f} | {row['seconds']:.0f} |",
            flush=True,
        )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
