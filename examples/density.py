"""Density estimation on real data: flows beside a Gaussian and a Gaussian mixture.

The data are 569 rows of ten measurements of cell nuclei (Wisconsin diagnostic breast cancer, which
ships with scikit-learn): skewed, heavy-tailed, and three of them nearly functions of one another.
Each model is fitted on repeated random splits and scored on rows that it has not seen. Then a flow
is fitted to two moons, where the density can be looked at.

    python examples/density.py            # two to three minutes on two cores
    python examples/density.py --quick    # half a minute, to see that it runs

Numbers are printed; pictures go to ``out/``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

# Before torch and NumPy are loaded: two processes with threads of their own would only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
from sklearn.datasets import load_breast_cancer, make_moons
from sklearn.mixture import GaussianMixture

from pyro_nf import flows, infer, plot
from pyro_nf.distributions import Flow

COLUMNS = 10  # the means; the data's other columns are their standard errors and extremes
FIRST_SPLIT = 100  # the flows' settings were chosen on the validation rows of splits 0 and 1

# Smooth activations and a little weight decay: 410 rows to train on are soon learned by heart.
FLOWS: dict[str, Callable[[], Flow]] = {
    "RealNVP": lambda: flows.realnvp(
        COLUMNS, transforms=10, mask="random", hidden_dims=(32, 32), activation="tanh"
    ),
    "MAF": lambda: flows.maf(COLUMNS, hidden_dims=(32, 32), activation="tanh"),
    "NSF": lambda: flows.nsf(
        COLUMNS, transforms=3, bins=5, bound=6.0, hidden_dims=(32, 32), activation="silu"
    ),
}
MODELS = ("Gaussian", "Gaussian mixture", *FLOWS)


def split(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns training, validation and test rows (72, 8, 20 %), standardised by the first two."""
    x = load_breast_cancer().data[:, :COLUMNS]
    x = x[np.random.default_rng(seed).permutation(len(x))]
    test, rest = np.split(x, [len(x) // 5])
    mean, scale = rest.mean(0), rest.std(0)
    validation, train = np.split((rest - mean) / scale, [len(rest) // 10])
    return train, validation, (test - mean) / scale


def fit_gaussian(train: np.ndarray, validation: np.ndarray) -> GaussianMixture:
    """The full-covariance Gaussian of maximum likelihood, on all rows at hand."""
    return GaussianMixture(1, reg_covar=1e-9).fit(np.concatenate([train, validation]))


def fit_mixture(train: np.ndarray, validation: np.ndarray) -> GaussianMixture:
    """The mixture that does best on the validation rows, fitted once more on all rows at hand."""
    candidates = [
        GaussianMixture(components, reg_covar=floor, random_state=0)
        for components in range(1, 9)
        for floor in (1e-4, 1e-3, 1e-2)
    ]
    best = max(candidates, key=lambda mixture: mixture.fit(train).score(validation))
    return best.fit(np.concatenate([train, validation]))


def fit_flow(
    name: str, train: np.ndarray, validation: np.ndarray, max_steps: int
) -> tuple[Flow, infer.FitResult]:
    """A flow with the weights that do best on the validation rows."""
    flow = FLOWS[name]()
    result = infer.fit_density(
        flow,
        train,
        validation=validation,
        batch_size=128,
        max_steps=max_steps,
        validate_every=50,
        patience=500,
        optimizer=lambda p: torch.optim.AdamW(p, lr=5e-3, weight_decay=1e-2, fused=True),
        progress=False,
    )
    return flow.eval(), result


def held_out_scores(seed: int, max_steps: int) -> list[float]:
    """The mean test log-likelihood of each model on one split, in nats per row."""
    torch.set_num_threads(1)
    pyro.set_rng_seed(seed)
    train, validation, test = split(seed)
    scores = [fit(train, validation).score(test) for fit in (fit_gaussian, fit_mixture)]
    for name in FLOWS:
        flow, _ = fit_flow(name, train, validation, max_steps)
        with torch.no_grad():
            scores.append(flow().log_prob(torch.tensor(test, dtype=torch.float32)).mean().item())
    return scores


def compare(splits: int, max_steps: int) -> np.ndarray:
    """Scores all models on several splits, two at a time: ``(splits, models)``."""
    seeds = range(FIRST_SPLIT, FIRST_SPLIT + splits)
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn")) as pool:
        return np.array(list(pool.map(held_out_scores, seeds, [max_steps] * splits)))


def print_table(scores: np.ndarray) -> None:
    """Prints means and paired differences with their standard errors over the splits."""
    gains = scores - scores[:, [1]]
    root = np.sqrt(len(scores))
    print(f"\nHeld-out log-likelihood, nats per row, {len(scores)} splits (mean ± standard error)")
    print(f"{'model':<18}{'log-likelihood':>18}{'minus the mixture':>22}{'splits won':>12}")
    for i, name in enumerate(MODELS):
        mean, spread = scores[:, i].mean(), scores[:, i].std(ddof=1) / root
        gain, gain_spread = gains[:, i].mean(), gains[:, i].std(ddof=1) / root
        won = "" if i == 1 else f"{(gains[:, i] > 0).sum()} of {len(scores)}"
        paired = "" if i == 1 else f"{gain:+.2f} ± {gain_spread:.2f}"
        print(f"{name:<18}{f'{mean:.2f} ± {spread:.2f}':>18}{paired:>22}{won:>12}")


def draw_moons(out: Path, max_steps: int) -> None:
    """Draws a flow's density of two moons, the grid that it warps, and the course of the fit."""
    x, _ = make_moons(20_000, noise=0.1, random_state=0)
    flow = flows.nsf(2, transforms=3)
    result = infer.fit_density(flow, x, max_steps=max_steps, progress=False)
    print(f"\nTwo moons: {result}")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 3.6), layout="constrained")
    plot.density(flow, x, ax=left).set_title("density and data")
    plot.grid(flow, ax=right).set_title("the base space's grid, warped")
    figure.savefig(out / "moons.png", dpi=120)
    plot.losses(result).figure.savefig(out / "losses.png", dpi=120)


def draw_pairs(out: Path, max_steps: int) -> None:
    """Draws test rows beside samples of a flow that was fitted to others."""
    train, validation, test = split(FIRST_SPLIT)
    flow, _ = fit_flow("NSF", train, validation, max_steps)
    shown = [0, 1, 3, 5, 7]
    names = [str(load_breast_cancer().feature_names[i]).removeprefix("mean ") for i in shown]
    samples = flow().sample((2000,))
    figure = plot.pairs(test[:, shown], samples[:, shown], names)
    figure.savefig(out / "pairs.png", dpi=120)


def main() -> None:
    """Runs the comparison and draws the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    splits, max_steps = (2, 20) if options.quick else (5, 1200)

    started = time.perf_counter()
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    print_table(compare(splits, max_steps))
    draw_moons(options.out, max_steps)
    draw_pairs(options.out, max_steps)
    pictures = ", ".join(str(options.out / f"{name}.png") for name in ("moons", "pairs", "losses"))
    print(f"Pictures: {pictures}\n{time.perf_counter() - started:.0f} seconds")


if __name__ == "__main__":
    main()
