"""What a numerical inverse costs, in forward passes of the same layer.

    python -m benchmarks.numerical_inverse [--repeats 5] [--only NAME]

Batch 1024, 43 dimensions, networks 2 x 128, parameters drawn as a trained flow's may be. Forward
and inverse are interleaved; medians of CPU milliseconds without gradients, one thread. The slow
direction of an autoregressive layer solves for one dimension after the other.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks._machine import describe
from pyro_nf import bijections as B  # noqa: N812
from pyro_nf.bijections import ScalarBijection
from pyro_nf.transforms import (
    Autoregressive,
    BlockAutoregressive,
    ConvexPotential,
    Coupling,
    Elementwise,
    FlowTransform,
    InvertibleResidual,
    Joint,
)

SIZE, BATCH = 43, 1024
HIDDEN = {"hidden_dims": (128, 128)}

WIRINGS: dict[str, Callable[[ScalarBijection], FlowTransform]] = {
    "elementwise": lambda f: Elementwise(f, SIZE),
    "coupling": lambda f: Coupling(f, SIZE, **HIDDEN),
    "autoregressive": lambda f: Autoregressive(f, SIZE, fast="sample", **HIDDEN),
}
# Bijections whose inverse is a root: each in every wiring.
BIJECTIONS: dict[str, ScalarBijection] = {
    "deep sigmoidal": B.DeepSigmoidal(),
    "deep sigmoidal, elu": B.DeepSigmoidal(activation="elu"),
    "deep dense sigmoidal": B.DeepDenseSigmoidal(units=4),
    "logistic mixture": B.LogisticMixture(),
    "normal mixture": B.GaussianMixtureProbit(),
    "sum of squares": B.SumOfSquares(),
    "Bernstein": B.Bernstein(),
    "integral": B.UnconstrainedMonotonic(),
}
# Other layers that invert numerically, by name.
LAYERS: dict[str, Callable[[], FlowTransform]] = {
    f"{wiring}, {name}": partial(make, f)
    for name, f in BIJECTIONS.items()
    for wiring, make in WIRINGS.items()
} | {
    "planar": lambda: Joint(B.Planar(), SIZE),
    "sylvester, 16 units": lambda: Joint(B.Sylvester(units=16), SIZE),
    "block autoregressive": lambda: BlockAutoregressive(SIZE, [8, 8]),
    "residual": lambda: InvertibleResidual(SIZE, fast="sample", **HIDDEN),
    "convex potential": lambda: ConvexPotential(SIZE, fast="sample", **HIDDEN),
}


def prepared(make: Callable[[], FlowTransform]) -> FlowTransform:
    """Creates a layer whose units differ from row to row, in float32."""
    torch.manual_seed(0)
    layer = make()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.1 if parameter.ndim > 1 else 0.5)
    return layer


@torch.no_grad()
def median_ms(layer: FlowTransform, repeats: int) -> tuple[float, float]:
    """Median CPU milliseconds of the forward and of the inverse map."""
    x = torch.randn(BATCH, SIZE)
    y = layer.forward_and_ladj(x)[0]
    times: tuple[list[float], list[float]] = [], []
    for _ in range(repeats + 1):
        for run, value, spent in (
            (layer.forward_and_ladj, x, times[0]),
            (layer.inverse_and_ladj, y, times[1]),
        ):
            start = time.process_time()
            run(value)
            spent.append((time.process_time() - start) * 1e3)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


def main() -> None:
    """Parses the command line, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="a part of the names to run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(describe())
    print("| layer | forward, ms | inverse, ms | forward passes |\n" + "|---" * 4 + "|")
    for name, make in LAYERS.items():
        if options.only in name:
            forward, inverse = median_ms(prepared(make), options.repeats)
            print(
                f"| {name} | {forward:.1f} | {inverse:.1f} | {inverse / forward:.1f} |", flush=True
            )


if __name__ == "__main__":
    main()
