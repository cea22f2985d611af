"""Variational autoencoders: posteriors q(z|x) and a prior p(z) that are normalizing flows.

The same encoder and decoder are trained with four posteriors, and with a flow as the prior: a
diagonal Gaussian; then planar, inverse autoregressive (IAF) and Sylvester flows that start from
that Gaussian and, like it, read the encoder's output; then the Gaussian with a Real NVP prior.
Each is scored on images it has not seen, by its ELBO and by the importance-weighted log-likelihood
(Burda et al., 2016, arXiv:1509.00519), a tighter bound whose distance from the ELBO is what the
posterior misses.

    python examples/vae.py            # four to five minutes on one core
    python examples/vae.py --quick    # a quarter of a minute, to see that it runs

The images are scikit-learn's digits, 8 x 8, black where a level is at least half of the largest.
``--data FILE.npz`` takes others: arrays ``train`` and ``test`` of bytes, a row an image of 0 and 1
that is square, its pixels packed by ``np.packbits(images, axis=1)``.

Numbers are printed; pictures go to ``out/``.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pyro_nf import flows
from pyro_nf.distributions import DiagonalNormal

CONTEXT_DIM = 64  # what the encoder tells the posterior about an image
FOLDS = 6  # of the digits; each run tests on another one
SPLIT = 100  # the settings were chosen on another split
BATCH_SIZE = 128


def gaussian(z_dim: int) -> DiagonalNormal:
    """N(μ(x), σ(x)²): mean and log-scale are linear in the context."""
    return DiagonalNormal(z_dim, context_dim=CONTEXT_DIM)


# The flows start from the Gaussian of the image. Their layers' parameters follow it too: linear in
# the context (planar, Sylvester), or by a masked network that it shifts (IAF). Each layer runs one
# way only, base -> data: q(z|x) draws, and scores its own draw, in that one pass.
POSTERIORS: dict[str, Callable[[int], nn.Module]] = {
    "Gaussian": gaussian,
    "planar": lambda z_dim: flows.planar(
        z_dim,
        transforms=8,
        fast="sample",
        hidden_dims=(),
        context_dim=CONTEXT_DIM,
        base=gaussian(z_dim),
    ),
    "IAF": lambda z_dim: flows.iaf(
        z_dim,
        transforms=4,
        hidden_dims=(128,),
        activation="elu",
        context_dim=CONTEXT_DIM,
        base=gaussian(z_dim),
    ),
    "Sylvester": lambda z_dim: flows.sylvester(
        z_dim,
        transforms=4,
        fast="sample",
        hidden_dims=(),
        context_dim=CONTEXT_DIM,
        base=gaussian(z_dim),
    ),
}
PRIORS: dict[str, Callable[[int], nn.Module]] = {
    "normal": DiagonalNormal,
    "Real NVP": lambda z_dim: flows.realnvp(z_dim, transforms=4),
}
MODELS = [(posterior, "normal") for posterior in POSTERIORS] + [("Gaussian", "Real NVP")]


class VAE(nn.Module):
    """A variational autoencoder of binary images: model, guide, and their importance weights.

    Args:
        pixels: Number of pixels of an image.
        z_dim: Number of latents.
        hidden: Width of the two hidden layers of encoder and decoder.
        posterior: Its call with a context ``(*batch, CONTEXT_DIM)`` gives q(z|x).
        prior: Its call gives p(z).
    """

    def __init__(
        self, pixels: int, z_dim: int, hidden: int, posterior: nn.Module, prior: nn.Module
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(network(pixels, hidden, CONTEXT_DIM), nn.SiLU())
        self.decoder = network(z_dim, hidden, pixels)
        self.posterior = posterior
        self.prior = prior

    def likelihood(self, z: Tensor) -> dist.Independent:
        """The distribution p(x|z) of an image, its pixels independent."""
        return dist.Bernoulli(logits=self.decoder(z)).to_event(1)

    def model(self, images: Tensor, kl_weight: float = 1.0) -> None:
        """Draws latents from the prior, and images given them."""
        pyro.module("decoder", self.decoder)
        pyro.module("prior", self.prior)
        with pyro.plate("images", len(images)):
            with poutine.scale(scale=kl_weight):
                z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=images)

    def guide(self, images: Tensor, kl_weight: float = 1.0) -> None:
        """Draws latents given the images."""
        pyro.module("encoder", self.encoder)
        pyro.module("posterior", self.posterior)
        with pyro.plate("images", len(images)), poutine.scale(scale=kl_weight):
            pyro.sample("z", self.posterior(self.encoder(images)))

    @torch.no_grad()
    def log_weights(self, images: Tensor, draws: int) -> Tensor:
        """Computes log p(x, z) - log q(z|x) at draws of the posterior: ``(draws, images)``."""
        posterior = self.posterior(self.encoder(images))
        z = posterior.sample((draws,))
        log_joint = self.prior().log_prob(z) + self.likelihood(z).log_prob(images)
        return log_joint - posterior.log_prob(z)


def network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Creates a multilayer perceptron of two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, outputs),
    )


def load(path: Path | None, run: int) -> tuple[Tensor, Tensor]:
    """Returns images to train on and to test on: bytes of 0 and 1, ``(images, pixels)``."""
    if path is not None:
        with np.load(path) as file:
            train, test = (np.unpackbits(file[name], axis=1) for name in ("train", "test"))
        return torch.from_numpy(train), torch.from_numpy(test)
    levels = np.random.default_rng(SPLIT).permutation(load_digits().data)
    folds = np.array_split((levels >= levels.max() / 2).astype(np.uint8), FOLDS)
    test = folds.pop(run)
    return torch.from_numpy(np.concatenate(folds)), torch.from_numpy(test)


def fit(vae: VAE, images: Tensor, steps: int, learning_rate: float) -> float:
    """Trains by SVI and returns the CPU seconds that it took."""
    started = time.process_time()
    pyro.clear_param_store()
    decay = 0.05 ** (1 / steps)
    optimizer = pyro.optim.ClippedAdam({"lr": learning_rate, "lrd": decay})
    svi = SVI(vae.model, vae.guide, optimizer, Trace_ELBO())
    vae.train()
    for step in range(steps):
        batch = images[torch.randint(len(images), (BATCH_SIZE,))].float()
        # A weight that grows from 0 in the first quarter keeps the latents in use (Bowman et al.,
        # 2016, arXiv:1511.06349).
        svi.step(batch, min(1.0, 4 * (step + 1) / steps))
    return time.process_time() - started


@torch.no_grad()
def score(vae: VAE, images: Tensor, draws: int) -> Tensor:
    """The ELBO and the importance-weighted log-likelihood of each image, ``(2, images)``."""
    vae.eval()
    scores = []
    for part in images.float().split(20):
        log_weights = vae.log_weights(part, draws)
        log_likelihood = log_weights.logsumexp(0) - math.log(draws)
        scores.append(torch.stack([log_weights.mean(0), log_likelihood]))
    return torch.cat(scores, 1)


def line(posterior: str, prior: str, scores: Tensor) -> str:
    """Names and mean scores ``(columns, images)``, each with its standard error over images."""
    spreads = scores.std(1) / scores.shape[1] ** 0.5
    cells = [f"{m:.2f} ± {s:.2f}" for m, s in zip(scores.mean(1), spreads, strict=True)]
    return f"{posterior:<18}{prior:<9}" + "".join(f"{cell:>17}" for cell in cells)


def print_table(scores: Tensor, seconds: list[float]) -> None:
    """Prints mean scores ``(models, 2, images)`` and paired gains over the first model."""
    print(f"\nNats per test image (mean ± standard error over {scores.shape[-1]} images)")
    print(
        f"{'posterior':<18}{'prior':<9}{'ELBO':>17}{'log-likelihood':>17}"
        f"{'gain in ELBO':>17}{'gain in log-lik.':>17}{'CPU s':>7}"
    )
    for i, names in enumerate(MODELS):
        shown = torch.cat([scores[i], scores[i] - scores[0]]) if i else scores[i]
        print(f"{line(*names, shown):<95}{seconds[i]:>7.0f}")


def mosaic(images: Tensor, columns: int) -> np.ndarray:
    """Lays images ``(rows * columns, pixels)`` out side by side with a margin of one pixel."""
    side = math.isqrt(images.shape[-1])
    cells = nn.functional.pad(images.view(-1, columns, side, side), (0, 1, 0, 1), value=0.3)
    return cells.transpose(1, 2).flatten(0, 1).flatten(1).numpy()


@torch.no_grad()
def draw_samples(vaes: list[VAE], path: Path) -> None:
    """Draws each model's mean images of 36 latents from its prior."""
    figure, cells = plt.subplots(1, len(vaes), figsize=(15, 3.4), layout="constrained")
    for axes, vae, names in zip(cells, vaes, MODELS, strict=True):
        images = vae.likelihood(vae.prior().sample((36,))).mean
        axes.imshow(mosaic(images, columns=6), cmap="gray_r", vmin=0, vmax=1)
        axes.set_title("{} posterior, {} prior".format(*names), fontsize=9)
        axes.axis("off")
    figure.savefig(path, dpi=110)


@torch.no_grad()
def draw_reconstructions(vaes: list[VAE], images: Tensor, path: Path) -> None:
    """Draws images, and below each its mean image at one draw of each model's posterior."""
    rows = [images.float()]
    for vae in vaes:
        z = vae.posterior(vae.encoder(rows[0])).sample()
        rows.append(vae.likelihood(z).mean)
    figure, axes = plt.subplots(figsize=(9.5, 4.2), layout="constrained")
    axes.imshow(mosaic(torch.cat(rows), columns=len(images)), cmap="gray_r", vmin=0, vmax=1)
    names = ["image", *("{}, {}".format(*names) for names in MODELS)]
    cell = math.isqrt(images.shape[-1]) + 1
    axes.set_yticks([(i + 0.5) * cell for i in range(len(names))], names)
    axes.set_xticks([])
    axes.set_frame_on(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Trains and scores all models, prints the table and draws the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the pictures")
    parser.add_argument("--data", type=Path, help="packed images instead of the digits")
    parser.add_argument(
        "--runs", type=int, default=2, choices=range(1, FOLDS + 1), help="folds to test on"
    )
    parser.add_argument("--steps", type=int, default=1500, help="steps of each training")
    parser.add_argument("--z-dim", type=int, default=8, help="number of latents")
    parser.add_argument("--hidden", type=int, default=256, help="width of the hidden layers")
    parser.add_argument("--learning-rate", type=float, default=4e-3, help="at the first step")
    parser.add_argument("--test-images", type=int, help="score only the first so many")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    runs = 1 if options.quick or options.data else options.runs
    steps, draws = (40, 100) if options.quick else (options.steps, 1000)

    torch.set_num_threads(1)
    scores, seconds = [], [0.0] * len(MODELS)
    for run in range(runs):
        train, test = load(options.data, run)
        test = test[: options.test_images]
        vaes, rows = [], []
        for i, (posterior, prior) in enumerate(MODELS):
            pyro.set_rng_seed(run)
            parts = POSTERIORS[posterior](options.z_dim), PRIORS[prior](options.z_dim)
            vae = VAE(train.shape[1], options.z_dim, options.hidden, *parts)
            seconds[i] += fit(vae, train, steps, options.learning_rate)
            rows.append(score(vae, test, draws))
            vaes.append(vae)
            print(line(f"run {run + 1}: {posterior}", prior, rows[-1]), flush=True)
        scores.append(torch.stack(rows))
    print_table(torch.cat(scores, 2), seconds)
    draw_samples(vaes, options.out / "vae_samples.png")
    draw_reconstructions(vaes, test[:12], options.out / "vae_reconstructions.png")
    print(f"\nPictures: {options.out / 'vae_samples.png'}, vae_reconstructions.png beside it")


if __name__ == "__main__":
    main()
