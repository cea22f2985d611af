"""An amortised guide on a model whose posterior is known, by mini-batches.

    python -m benchmarks.amortized [--steps 800]

θ ~ N(0, 1), a latent z_i ~ N(θ, 1) and a datum y_i ~ N(z_i, 1) for each of 100 rows, of which a
step sees 10. The posterior is normal: the table has the exact mean and sd of θ and of the z_i
beside those of the guide, with an encoder and with parameters for each row. One thread.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from benchmarks._machine import describe
from pyro_nf import infer
from pyro_nf.infer.autoguide import AutoAmortizedFlow

ROWS, BATCH, DRAWS = 100, 10, 5000


def model(y: Tensor) -> None:
    """A group mean and a latent for each row."""
    theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y), subsample_size=BATCH) as index:
        z = pyro.sample("z", dist.Normal(theta, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y[index])


def exact(y: Tensor) -> tuple[float, float, Tensor, float]:
    """Mean and sd of θ, means of the z_i and their sd."""
    precision = 1 + len(y) / 2  # y_i ~ N(θ, sqrt 2)
    mean = float(y.sum() / 2 / precision)
    return mean, precision**-0.5, (y + mean) / 2, (0.5 + 0.25 / precision) ** 0.5


def guides() -> dict[str, Any]:
    """A guide with an encoder, one without."""
    encoder = nn.Sequential(nn.Linear(1, 8), nn.SiLU(), nn.Linear(8, 4))
    return {
        "encoder": AutoAmortizedFlow(model, encoder, data=lambda index, y: y[index, None]),
        "parameters of each row": AutoAmortizedFlow(model),
    }


def main() -> None:
    """Parses the command line, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=800)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    y = dist.Normal(dist.Normal(1.0, 1.0).sample((ROWS,)), 1.0).sample()
    mean, sd, z_mean, z_sd = exact(y)
    print(describe())
    print("| guide | θ | largest error of a z's mean | sds of the z | CPU s |")
    print("|---|---|---|---|---|")
    print(f"| exact | {mean:.3f} ± {sd:.3f} | | {z_sd:.3f} | |")
    for name, guide in guides().items():
        start = time.process_time()
        infer.fit_guide(
            model,
            guide,
            y,
            num_steps=options.steps,
            num_particles=64,
            learning_rate=0.02,
            progress=False,
        )
        seconds = time.process_time() - start
        at = torch.tensor([0.1587, 0.5, 0.8413])  # of normals: mean and sd
        quantiles = guide.quantiles(at, y, num_samples=DRAWS)
        low, middle, high = quantiles["theta"]
        z_low, z_middle, z_high = quantiles["z"]
        sds = (z_high - z_low) / 2
        print(
            f"| {name} | {float(middle):.3f} ± {float(high - low) / 2:.3f} | "
            f"{float((z_middle - z_mean).abs().max()):.3f} | {float(sds.min()):.3f} … "
            f"{float(sds.max()):.3f} | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
