"""Held-out log-likelihood of flows on small UCI sets, beside a full-covariance Gaussian.

    python -m benchmarks.uci --data FILE.npz [--sets red_wine white_wine protein] [--splits 5]

FILE.npz holds one array of shape (rows, columns) for each set. Every split draws 10 % of the rows
as the test part, standardises by the training part, and fits at the defaults of ``fit_density``,
which keeps 10 % of the training part for validation. One thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks._machine import describe
from pyro_nf import flows, infer

Fit = Callable[[Tensor, int], Callable[[Tensor], Tensor]]


def gaussian(train: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
    """Fits a normal distribution with full covariance."""
    del seed
    normal = torch.distributions.MultivariateNormal(train.mean(0), torch.cov(train.T))
    return normal.log_prob


def fitted_flow(name: str) -> Fit:
    """Names a flow to be fitted at its defaults."""

    def fit(train: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
        torch.manual_seed(seed)
        flow = getattr(flows, name)(train.shape[1])
        infer.fit_density(flow, train.float(), seed=seed, progress=False)
        return lambda x: flow().log_prob(x.float()).detach().double()

    return fit


MODELS: dict[str, Fit] = {
    "Gaussian": gaussian,
    "RealNVP": fitted_flow("realnvp"),
    "MAF": fitted_flow("maf"),
    "NSF": fitted_flow("nsf"),
}


def split(data: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Draws 10 % as the test part and standardises both by the training part."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    held = len(data) // 10
    test, train = data[order[:held]], data[order[held:]]
    mean, std = train.mean(0), train.std(0)
    return (train - mean) / std, (test - mean) / std


def main() -> None:
    """Parses the command line, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--sets", nargs="+", default=["red_wine", "white_wine", "protein"])
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(describe())
    print("| set | rows x columns | model | mean test log-likelihood | ± se | s per fit |")
    print("|---|---|---|---|---|---|")
    arrays = np.load(options.data)
    for name in options.sets:
        data = torch.as_tensor(arrays[name], dtype=torch.float64)
        for model in options.models:
            scores, start = [], time.perf_counter()
            for seed in range(options.splits):
                train, test = split(data, seed)
                scores.append(MODELS[model](train, seed)(test).mean())
            seconds = (time.perf_counter() - start) / options.splits
            values = torch.stack(scores)
            error = values.std().item() / len(values) ** 0.5 if len(values) > 1 else float("nan")
            print(
                f"| {name} | {data.shape[0]} x {data.shape[1]} | {model} | {values.mean():.3f} | "
                f"{error:.3f} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
