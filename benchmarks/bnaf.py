"""What a block neural autoregressive layer costs: against Pyro's, and in its slow direction.

    python -m benchmarks.bnaf [--repeats 9]

Pyro's layer with the same hidden factors, activation and residual connection. Its weight matrix
stores the zeros above the diagonal blocks as parameters; so does ours, and beside it the diagonal
blocks: the counts are printed. "score" is the fast direction with its log-determinant without
gradients, "train" the same with its gradient. The inverse, which Pyro lacks, is given in passes of
the fast direction, on parameters perturbed by 0.3·N(0, 1). All are interleaved, each after an
untimed call of its own; medians of CPU milliseconds. One thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from pyro.distributions.transforms import BlockAutoregressive as PyroBlockAutoregressive
from torch import Tensor, nn

from benchmarks._machine import describe
from pyro_nf.transforms import BlockAutoregressive

DIMS, BATCHES, FACTORS = (2, 6, 43), (128, 1024), (8, 8)


def scored_by_pyro(layer: PyroBlockAutoregressive, x: Tensor) -> Tensor:
    """One pass of Pyro's network, past its cache."""
    return layer._call(x).sum() + layer._cached_logDetJ.sum()


def scored(layer: BlockAutoregressive, x: Tensor) -> Tensor:
    """One pass of ours."""
    y, ladj = layer.forward_and_ladj(x)
    return y.sum() + ladj.sum()


def unscored(layer: BlockAutoregressive, y: Tensor) -> Tensor:
    """The slow direction."""
    x, ladj = layer.inverse_and_ladj(y)
    return x.sum() + ladj.sum()


def quiet(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Takes the graph away."""
    return torch.no_grad()(run)


def candidates(size: int, batch: int) -> tuple[dict[str, Callable[[], object]], int, int]:
    """What is timed, by the column's name, and the two parameter counts."""
    torch.manual_seed(0)
    pyro_layer = PyroBlockAutoregressive(size, list(FACTORS), residual="gated")
    layer = BlockAutoregressive(size, FACTORS)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(batch, size)
    y = layer(x).detach().requires_grad_()
    runs: dict[str, Callable[[], object]] = {
        "score": quiet(lambda: scored(layer, x)),
        "score, Pyro": quiet(lambda: scored_by_pyro(pyro_layer, x)),
        "train": lambda: scored(layer, x).backward(),
        "train, Pyro": lambda: scored_by_pyro(pyro_layer, x).backward(),
        "inverse": quiet(lambda: unscored(layer, y)),
        "inverse + gradient": lambda: unscored(layer, y).backward(),
    }
    return runs, parameters(layer), parameters(pyro_layer)


def parameters(module: nn.Module) -> int:
    """Counts the parameters' elements."""
    return sum(parameter.numel() for parameter in module.parameters())


def median_ms(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU milliseconds of each, interleaved; an untimed call before refills the caches."""
    times: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(repeats + 1):
        for key, run in runs.items():
            run()
            start = time.process_time()
            run()
            times[key].append((time.process_time() - start) * 1e3)
    return {key: statistics.median(values[1:]) for key, values in times.items()}


def main() -> None:
    """Parses the command line, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(describe())
    print("| D, B | parameters, ours / Pyro's | score | Pyro | ratio ", end="")
    print("| train | Pyro | ratio ", end="")
    print("| inverse | passes | inverse + gradient | passes |\n" + "|---" * 12 + "|")
    for size in options.dims:
        for batch in BATCHES:
            runs, ours, theirs = candidates(size, batch)
            ms = median_ms(runs, options.repeats)
            print(
                f"| {size}, {batch} | {ours} / {theirs} "
                f"| {ms['score']:.2f} | {ms['score, Pyro']:.2f} "
                f"| {ms['score, Pyro'] / ms['score']:.1f} "
                f"| {ms['train']:.2f} | {ms['train, Pyro']:.2f} "
                f"| {ms['train, Pyro'] / ms['train']:.1f} "
                f"| {ms['inverse']:.1f} | {ms['inverse'] / ms['score']:.1f} "
                f"| {ms['inverse + gradient']:.1f} "
                f"| {ms['inverse + gradient'] / ms['score']:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
