"""What the slow direction of an autoregressive layer costs, and its gradient.

    python -m benchmarks.slow_direction [--repeats 7]

One affine layer, batch 1024. The naive inverse runs the whole network D times under autograd. All
are interleaved; medians of CPU milliseconds. One thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks._machine import describe
from pyro_nf.bijections import Affine, RationalQuadraticSpline, ScalarBijection
from pyro_nf.transforms import Autoregressive

SIZES = ((6, 64), (43, 128), (64, 256))
BIJECTIONS: dict[str, ScalarBijection] = {
    "affine": Affine(),
    "spline, 8 bins": RationalQuadraticSpline(),
}


def naive(layer: Autoregressive, x: Tensor) -> Tensor:
    """Finds one dimension more with each pass of the whole network."""
    x = x.mT
    y = torch.zeros_like(x)
    for _ in range(len(x)):
        params = layer.network(y).view(layer.bijection.param_count, *y.shape)
        y = layer.bijection.inverse(x, params)[0]
    return y.mT


def with_gradient(run: Callable[[], Tensor]) -> Callable[[], None]:
    """Adds the backward pass."""
    return lambda: run().square().sum().backward()


def without_gradient(run: Callable[[], Tensor]) -> Callable[[], None]:
    """Takes the graph away."""

    def quiet() -> None:
        with torch.no_grad():
            run()

    return quiet


def candidates(layer: Autoregressive, x: Tensor) -> dict[str, Callable[[], None]]:
    """What is timed, by the column's name."""
    leaf = x.clone().requires_grad_()
    return {
        "fast pass": without_gradient(lambda: layer.inverse_and_ladj(x)[0]),
        "sweep": without_gradient(lambda: layer.forward_and_ladj(x)[0]),
        "naive": without_gradient(lambda: naive(layer, x)),
        "sweep + gradient": with_gradient(lambda: layer.forward_and_ladj(leaf)[0]),
        "naive + gradient": with_gradient(lambda: naive(layer, leaf)),
    }


def median_ms(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median CPU milliseconds of each, interleaved; the first round warms up."""
    times: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(repeats + 1):
        for key, run in runs.items():
            start = time.process_time()
            run()
            times[key].append((time.process_time() - start) * 1e3)
    return {key: statistics.median(values[1:]) for key, values in times.items()}


def main() -> None:
    """Parses the command line, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(describe())
    print("| bijection | D, H | fast pass | sweep | naive | sweep / fast pass ", end="")
    print("| sweep + gradient | naive + gradient | ratio |\n" + "|---" * 9 + "|")
    for name, bijection in BIJECTIONS.items():
        for size, width in SIZES:
            torch.manual_seed(0)
            layer = Autoregressive(bijection, size, fast="log_prob", hidden_dims=(width, width))
            for parameter in layer.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
            ms = median_ms(candidates(layer, torch.randn(1024, size)), options.repeats)
            print(
                f"| {name} | {size}, {width} | {ms['fast pass']:.2f} | {ms['sweep']:.2f} | "
                f"{ms['naive']:.1f} | {ms['sweep'] / ms['fast pass']:.1f} | "
                f"{ms['sweep + gradient']:.1f} | {ms['naive + gradient']:.1f} | "
                f"{ms['sweep + gradient'] / ms['naive + gradient']:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
