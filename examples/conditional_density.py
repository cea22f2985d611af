"""Conditional density estimation on real data: the colours of a photograph given the brightness.

Each pixel of a photograph that ships with scikit-learn has a brightness, the context, and two
differences of its colour channels, whose joint density changes its form with the brightness:
roofs, sky and leaves share hardly a colour. A neural spline flow with context learns all these
densities at once. It is scored on pixels that it has not seen, beside Gaussians whose mean and
covariance follow the brightness.

    python examples/conditional_density.py            # about a minute
    python examples/conditional_density.py --quick    # a few seconds, to see that it runs

Numbers are printed; the picture goes to ``out/``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
from sklearn.datasets import load_sample_image
from torch.distributions import MultivariateNormal

from pyro_nf import flows, infer, plot
from pyro_nf.distributions import Flow

ROWS = 30_000


def pixels(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns colour differences ``(rows, 2)`` and brightness ``(rows, 1)`` of random pixels."""
    generator = np.random.default_rng(seed)
    rgb = generator.permutation(load_sample_image("china.jpg").reshape(-1, 3))[:ROWS]
    # Channels are integers: uniform noise makes a density of them.
    red, green, blue = (rgb + generator.random(rgb.shape)).T / 256
    colour = np.stack([red - green, (red + green) / 2 - blue], axis=1)
    brightness = (red + green + blue)[:, None] / 3
    return torch.tensor(colour, dtype=torch.float32), torch.tensor(brightness, dtype=torch.float32)


def linear_gaussian(
    x: torch.Tensor, context: torch.Tensor, new: torch.Tensor
) -> MultivariateNormal:
    """Linear regression on the context with one covariance, evaluated at new contexts."""
    design = torch.cat([torch.ones_like(context), context], 1)
    weights = torch.linalg.lstsq(design, x).solution
    covariance = torch.cov((x - design @ weights).T)
    return MultivariateNormal(torch.cat([torch.ones_like(new), new], 1) @ weights, covariance)


def binned_gaussian(
    x: torch.Tensor, context: torch.Tensor, new: torch.Tensor, bins: int = 20
) -> MultivariateNormal:
    """A Gaussian for each of several ranges of the context that hold equally many rows."""
    edges = torch.quantile(context[:, 0], torch.linspace(0, 1, bins + 1)[1:-1])
    groups = torch.bucketize(context[:, 0].contiguous(), edges)
    parts = [x[groups == i] for i in range(bins)]
    means = torch.stack([part.mean(0) for part in parts])
    covariances = torch.stack([torch.cov(part.T) for part in parts])
    at = torch.bucketize(new[:, 0].contiguous(), edges)
    return MultivariateNormal(means[at], covariances[at])


def report(name: str, log_prob: torch.Tensor, reference: torch.Tensor) -> None:
    """Prints a mean score with its standard error over pixels, and the paired gain."""
    root, gain = len(log_prob) ** 0.5, log_prob - reference
    paired = f"{gain.mean():+.3f} ± {gain.std() / root:.3f}" if gain.any() else ""
    print(f"{name:<34}{f'{log_prob.mean():.3f} ± {log_prob.std() / root:.3f}':>18}{paired:>20}")


def draw(flow: Flow, x: torch.Tensor, context: torch.Tensor, path: Path) -> None:
    """Draws the density at four brightnesses, with the test pixels nearest to each."""
    figure, cells = plt.subplots(1, 4, figsize=(17, 4.2), layout="constrained")
    for axes, brightness in zip(cells, (0.1, 0.25, 0.45, 0.75), strict=True):
        near = x[(context[:, 0] - brightness).abs().argsort()[:400]]
        # Square windows of their own size, which leave the last few stray pixels out.
        low, high = near.quantile(0.03, 0), near.quantile(0.97, 0)
        half = 0.65 * (high - low).max()
        sides = torch.stack([(low + high) / 2 - half, (low + high) / 2 + half], 1).tolist()
        bounds = (sides[0][0], sides[0][1]), (sides[1][0], sides[1][1])
        plot.density(flow, near, context=torch.tensor([brightness]), bounds=bounds, ax=axes)
        axes.set(title=f"brightness {brightness}", xlabel="red − green", ylabel="yellow − blue")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Fits the flow, prints the comparison and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the picture")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    x, context = pixels(seed=0)
    test, train = slice(0, ROWS // 5), slice(ROWS // 5, None)
    flow = flows.nsf(2, context_dim=1, transforms=3)
    result = infer.fit_density(
        flow,
        x[train],
        context=context[train],
        max_steps=100 if options.quick else 3000,
        progress=False,
    )
    print(result)

    flow.eval()
    rows = x[train], context[train], context[test]
    linear = linear_gaussian(*rows).log_prob(x[test])
    with torch.no_grad():
        ours = flow(context[test]).log_prob(x[test])
    print(f"\n{'held-out pixels':<34}{'nats per pixel':>18}{'gain':>20}")
    report("Gaussian, linear regression", linear, linear)
    report("Gaussian in 20 brightness ranges", binned_gaussian(*rows).log_prob(x[test]), linear)
    report("neural spline flow", ours, linear)
    path = options.out / "conditional_density.png"
    draw(flow, x[test], context[test], path)
    print(f"\nPicture: {path}")


if __name__ == "__main__":
    main()
