"""Flows of images: Real NVP, Glow and Flow++ beside a histogram and a Gaussian, in bits.

Each model is fitted to small images of integers and scored on others by the bits per dimension
that a lossless code built on it would take. Integers are made real by noise: uniform, or, for
Flow++, drawn by a second flow as well (variational dequantisation). With one draw of the noise the
score is the bound that training minimises; with many, averaged as importance weights, it is nearer
to the truth. Then Glow with spline couplings draws: samples at three temperatures, test images
whose fine level is drawn anew, ways from one test image to another through latent space, and
images of each class.

    python examples/images.py            # four to five minutes on two cores
    python examples/images.py --quick    # a quarter of a minute, to see that it runs

The images are scikit-learn's digits, 8 x 8 pixels of 17 levels. ``--data FILE.npz`` takes others:
an array of integers (N, H, W), (N, C, H, W) or (N, H, W, C) of even height and width; ``--array``
and ``--labels`` name it and its classes.

Numbers are printed; pictures go to ``out/``.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

# Before torch and NumPy are loaded: two processes with threads of their own would only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib

matplotlib.use("Agg")

import _images_pictures as pictures
import numpy as np
import pyro
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, constraints

from pyro_nf import flows, infer
from pyro_nf.bijections import RationalQuadraticSpline
from pyro_nf.distributions import Dequantized, Flow

Shape = tuple[int, ...]
Rows = tuple[Tensor, Tensor | None]  # images, and their classes as one-hot vectors

UNIT = constraints.unit_interval  # logits are modelled: most pixels lie at an end of the range
MOST_TEST_IMAGES = 500


class Images(NamedTuple):
    """Integers ``(images, channels, height, width)`` of so many levels, and their classes."""

    train: Rows
    validation: Rows
    test: Rows
    levels: int


class Recipe(NamedTuple):
    """How a flow of images is made from their shape and the number of classes, and trained."""

    make: Callable[[Shape, int], Flow]
    steps: int
    learning_rate: float
    weight_decay: float
    dequantizer: Callable[[Shape], Flow] | None = None
    reads_class: bool = False


class Score(NamedTuple):
    """Bits per dimension of each test image, by one draw and by many; what the model cost.

    Attributes:
        one: With one draw of the noise, a mean of several such, ``(images,)``.
        many: From many draws at once, ``(images,)``.
        parameters: Number of numbers that were fitted.
        steps: Steps of training, where there were any.
        seconds: CPU seconds of training.
    """

    one: np.ndarray
    many: np.ndarray
    parameters: int | None = None
    steps: int | None = None
    seconds: float = 0.0


BATCH_SIZE = 64
DRAWS = "Glow, splines"  # the model of the pictures


def noise(shape: Shape) -> Flow:
    """A small flow of the noise, for it is run at every step."""
    return flows.dequantizer(shape, hidden_dims=(16,))


def realnvp(shape: Shape, classes: int) -> Flow:
    """Real NVP; small networks, whatever the size of the images."""
    return flows.realnvp(shape, hidden_dims=(32,), support=UNIT)


def glow(shape: Shape, classes: int) -> Flow:
    """Glow, whose couplings are affine."""
    return flows.glow(shape, transforms=8, hidden_dims=(64, 64), support=UNIT)


def spline_glow(shape: Shape, classes: int) -> Flow:
    """Glow whose couplings are splines instead of affine maps."""
    spline = RationalQuadraticSpline(bins=4, bound=5.0)
    return flows.glow(
        shape,
        transforms=8,
        hidden_dims=(64, 64),
        bijection=spline,
        context_dim=classes,
        support=UNIT,
    )


def flow_plus_plus(shape: Shape, classes: int) -> Flow:
    """Flow++, a little smaller than its default."""
    return flows.flow_plus_plus(shape, transforms=2, components=4, hidden_dims=(24,), support=UNIT)


# Chosen on the validation images of split 0; each trains for about a minute on one core.
RECIPES = {
    "Real NVP": Recipe(realnvp, 700, 4e-3, 0.3),
    "Glow": Recipe(glow, 900, 1e-2, 1.0),
    "Glow, splines": Recipe(spline_glow, 900, 6e-3, 1.5),
    "Flow++": Recipe(flow_plus_plus, 600, 4e-3, 0.3),
    "Flow++, variational noise": Recipe(flow_plus_plus, 450, 4e-3, 0.3, dequantizer=noise),
    "Glow, splines, given the class": Recipe(spline_glow, 600, 6e-3, 1.5, reads_class=True),
}


def load(options: argparse.Namespace) -> Images:
    """Returns images to train on and to stop by (70 and 10 %), and to test on."""
    if options.data is None:
        digits = load_digits()
        x, labels, levels = digits.images.astype(np.uint8), digits.target, 17
    else:
        with np.load(options.data) as file:
            x, labels = file[options.array], file[options.labels] if options.labels else None
        levels = options.levels
    x = torch.from_numpy(x[:, None] if x.ndim == 3 else x)
    if x.shape[-1] in (1, 3):
        x = x.movedim(-1, 1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(options.split))
    classes = None if labels is None else F.one_hot(torch.from_numpy(labels).long()).float()
    test, validation, train = (
        (x[part], None if classes is None else classes[part])
        for part in order.split([len(x) // 5, len(x) // 10, len(x) - len(x) // 5 - len(x) // 10])
    )
    most = 32 if options.quick else MOST_TEST_IMAGES
    test = test[0][:most], None if test[1] is None else test[1][:most]
    return Images(train, validation, test, levels)


def histogram(images: Images) -> Score:
    """Independent pixels: counts with a pseudocount that does best on the validation images."""

    def score(pseudocount: float, x: Tensor) -> Tensor:
        smooth = counts + pseudocount
        log_p = (smooth / smooth.sum(-1, keepdim=True)).log2()
        index = x.long()[..., None]
        return -log_p.expand(len(x), *counts.shape).gather(-1, index).flatten(1).mean(1)

    counts = F.one_hot(images.train[0].long(), images.levels).sum(0).double()
    x = images.validation[0]
    best = min((0.03, 0.1, 0.3, 1.0, 3.0), key=lambda count: score(count, x).mean().item())
    exact = score(best, images.test[0]).numpy()
    return Score(exact, exact, counts[..., 1:].numel())


def gaussian(images: Images, draws: int) -> Score:
    """A Gaussian with uniform dequantisation; its correlations shrunk as validation asks."""

    def log_weights(shrinkage: float, x: Tensor) -> Tensor:
        shrunk = (1 - shrinkage) * covariance + shrinkage * covariance.diag().diag()
        noise = torch.rand(draws, *x.flatten(1).shape, generator=generator, dtype=torch.float64)
        density = MultivariateNormal(mean, shrunk)
        return density.log_prob(x.flatten(1) + noise)  # in units of a level: no Jacobian

    generator = torch.Generator().manual_seed(0)
    rows = images.train[0].flatten(1).double()
    # Uniform noise adds its mean and its variance.
    mean, covariance = rows.mean(0) + 0.5, torch.cov(rows.T) + torch.eye(rows.shape[1]) / 12
    x = images.validation[0]
    choices = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
    weights = log_weights(max(choices, key=lambda s: log_weights(s, x).mean()), images.test[0])
    many = weights.logsumexp(0) - math.log(draws)
    nats = -rows.shape[1] * math.log(2)
    size = rows.shape[1]
    return Score((weights.mean(0) / nats).numpy(), (many / nats).numpy(), size * (size + 3) // 2)


def optimizer(recipe: Recipe) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    """Adam with a decay of the networks' kernels: so few images are soon learned by heart."""

    def make(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        kernels = [p for p in parameters if p.ndim == 4]
        others = [p for p in parameters if p.ndim != 4]  # scales and rotations are left alone
        groups = [{"params": kernels, "weight_decay": recipe.weight_decay}, {"params": others}]
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=0.0, fused=True)

    return make


def run(name: str, options: argparse.Namespace) -> Score:
    """Fits one flow, scores it on the test images, and draws what it is to draw."""
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    started = time.process_time()
    recipe, images = RECIPES[name], load(options)
    (x, context), validation, (test, test_context) = images[:3]
    if not recipe.reads_class:
        context, validation, test_context = None, (validation[0], None), None
    classes = 0 if context is None else context.shape[1]
    shape = tuple(x.shape[1:])
    noise = "uniform" if recipe.dequantizer is None else recipe.dequantizer(shape)
    flow = Dequantized(recipe.make(shape, classes), images.levels, dequantizer=noise)
    result = infer.fit_density(
        flow,
        x,
        context=context,
        validation=validation if context is not None else validation[0],
        batch_size=BATCH_SIZE,
        max_steps=2 if options.quick else recipe.steps,
        validate_every=25,
        optimizer=optimizer(recipe),
        progress=False,
    )
    seconds = time.process_time() - started
    flow.eval()
    print(
        f"{name}: {seconds:.0f} s, kept step {result.best_step} of {result.steps}, "
        f"validation {bits(result.best_loss, x):.3f}, "
        f"training {bits(np.mean(result.train_losses[-50:]), x):.3f} bits",
        flush=True,
    )
    one = torch.stack([flow.bits_per_dim(test, test_context) for _ in range(options.draws // 4)])
    many = flow.bits_per_dim(test, test_context, draws=options.draws)
    if name == DRAWS:
        pictures.samples(flow, test, options.out / "images_samples.png")
        pictures.levels(flow, test[:12], options.out / "images_levels.png")
        pictures.ways(flow, test[:16], options.out / "images_interpolations.png")
    if recipe.reads_class:
        pictures.classes(flow, options.out / "images_classes.png")
    parameters = sum(p.numel() for p in flow.parameters())
    return Score(one.mean(0).numpy(), many.numpy(), parameters, result.steps, seconds)


def bits(nats: float, x: Tensor) -> float:
    """Nats of an image in bits per dimension."""
    return float(nats) / (x[0].numel() * math.log(2))


def pm(values: np.ndarray, sign: str = "") -> str:
    """A mean and its standard error."""
    return f"{values.mean():{sign}.3f} ± {values.std(ddof=1) / math.sqrt(len(values)):.3f}"


def print_table(scores: dict[str, Score], draws: int) -> None:
    """Prints scores and their differences from Real NVP's, image by image."""
    reference = scores["Real NVP"].many
    print(f"\nBits per dimension of {len(reference)} test images (mean ± standard error)")
    print(
        f"{'model':<34}{'one draw':>16}{f'{draws} draws':>16}{'minus Real NVP':>18}"
        f"{'parameters':>12}{'steps':>7}{'CPU s':>8}"
    )
    for name, score in scores.items():
        paired = "" if name == "Real NVP" else pm(score.many - reference, "+")
        print(
            f"{name:<34}{pm(score.one):>16}{pm(score.many):>16}{paired:>18}"
            f"{score.parameters:>12,}{score.steps or '':>7}{score.seconds:>8.0f}"
        )


def conclude(scores: dict[str, Score], draws: int) -> None:
    """Prints in words what the table says."""
    unconditional = [name for name in scores if name in RECIPES and not RECIPES[name].reads_class]
    best = min(unconditional, key=lambda name: scores[name].many.mean())
    against_pixels = scores[best].many - scores["independent pixels"].many
    uniform, learned = scores["Flow++"], scores["Flow++, variational noise"]
    print(
        f"\nThe best without classes is {best}: {pm(against_pixels, '+')} bits per dimension "
        f"against independent pixels.\nLearned noise moves the bound of Flow++ by "
        f"{pm(learned.one - uniform.one, '+')} bits, its estimate from {draws} draws by "
        f"{pm(learned.many - uniform.many, '+')}."
    )


def main() -> None:
    """Fits and scores all models, two at a time, prints the table and draws the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the pictures")
    parser.add_argument("--data", type=Path, help="an .npz of images instead of the digits")
    parser.add_argument("--array", default="x", help="name of its array of images")
    parser.add_argument("--labels", help="name of its array of classes, from 0")
    parser.add_argument("--levels", type=int, default=256, help="levels of its pixels")
    parser.add_argument("--split", type=int, default=0, help="seed of the split")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.draws = 4 if options.quick else 64

    started = time.perf_counter()
    torch.set_num_threads(1)
    images = load(options)
    scores = {
        "independent pixels": histogram(images),
        "Gaussian": gaussian(images, options.draws),
    }
    names = [
        name for name, r in RECIPES.items() if images.test[1] is not None or not r.reads_class
    ]
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn")) as pool:
        scores.update(zip(names, pool.map(run, names, [options] * len(names)), strict=True))
    print_table(scores, options.draws)
    conclude(scores, options.draws)
    print(f"Pictures: {options.out}/images_*.png\n{time.perf_counter() - started:.0f} seconds")


if __name__ == "__main__":
    main()
