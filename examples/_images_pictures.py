"""The pictures of ``images.py``: what a flow of images draws."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_nf.distributions import Dequantized
from pyro_nf.transforms import MultiLevel

COOL = 0.7  # the temperature where only one is shown


@torch.no_grad()
def samples(model: Dequantized, test: Tensor, path: Path) -> None:
    """Draws test images, and samples at three temperatures."""
    figure, cells = plt.subplots(1, 4, figsize=(14, 3.9), layout="constrained")
    _show(cells[0], _middles(test[:64], model.levels), columns=8)
    cells[0].set_title("test images")
    for axes, temperature in zip(cells[1:], (0.5, COOL, 1.0), strict=True):
        drawn = model(temperature=temperature).sample((64,))
        _show(axes, _middles(drawn, model.levels), columns=8)
        axes.set_title(f"samples at temperature {temperature}")
    figure.savefig(path, dpi=110)


@torch.no_grad()
def levels(model: Dequantized, test: Tensor, path: Path) -> None:
    """Draws test images from their latents: first all, then without those of the finest levels."""
    image = _middles(test, model.levels)
    whole = model.flow.transform
    level = next(part for part in whole.modules() if isinstance(part, MultiLevel))
    latents = level.latents(whole.inverse_and_ladj(image)[0])
    rows, names = [image], ["test image"]
    for drawn in range(len(latents)):
        for _ in range(4 if drawn else 1):
            fresh = [COOL * torch.randn_like(latent) for latent in latents[:drawn]]
            rows.append(whole.forward_and_ladj(level.flat([*fresh, *latents[drawn:]]))[0])
            names.append(
                f"finest {drawn} of {len(latents)} drawn" if drawn else "all latents kept"
            )
    figure, axes = plt.subplots(figsize=(9.5, 0.8 * len(rows)), layout="constrained")
    _show(axes, torch.cat(rows), columns=len(test))
    cell = test.shape[-2] + 1
    axes.set_yticks([(i + 0.5) * cell for i in range(len(names))], names)
    figure.savefig(path, dpi=110)


@torch.no_grad()
def ways(model: Dequantized, test: Tensor, path: Path) -> None:
    """Draws ways from one test image to another, along great circles of latent space."""
    whole = model.flow.transform
    start, end = whole.inverse_and_ladj(_middles(test, model.levels))[0].chunk(2)
    angle = torch.linspace(0, math.pi / 2, 11)[:, None]  # a line would pass too near to 0
    latents = start[:, None] * angle.cos() + end[:, None] * angle.sin()
    figure, axes = plt.subplots(figsize=(6.6, 4.8), layout="constrained")
    _show(axes, whole.forward_and_ladj(latents.flatten(0, 1))[0], columns=len(angle))
    axes.set_title("from a test image to another")
    figure.savefig(path, dpi=110)


@torch.no_grad()
def classes(model: Dequantized, path: Path) -> None:
    """Draws samples of each class in a column of its own."""
    count = model.context_dim
    drawn = model(torch.eye(count), temperature=COOL).sample((6,))
    figure, axes = plt.subplots(figsize=(6.6, 4.4), layout="constrained")
    _show(axes, _middles(drawn.flatten(0, 1), model.levels), columns=count)
    cell = drawn.shape[-1] + 1
    axes.set_xticks([(i + 0.5) * cell for i in range(count)], [str(i) for i in range(count)])
    axes.set_title(f"samples given the class, temperature {COOL}")
    figure.savefig(path, dpi=110)


def _middles(x: Tensor, levels: int) -> Tensor:
    """The middles of the cells for which integers stand."""
    return (x + 0.5) / levels


def _mosaic(images: Tensor, columns: int) -> np.ndarray:
    """Lays images ``(rows * columns, C, H, W)`` in [0, 1] out, a margin of one pixel between."""
    cells = F.pad(images.clamp(0, 1), (0, 1, 0, 1), value=0.65).unflatten(0, (-1, columns))
    return cells.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).numpy()


def _show(axes: plt.Axes, images: Tensor, columns: int) -> None:
    """Shows a mosaic, where gray levels stand for ink."""
    axes.imshow(_mosaic(images, columns), cmap="gray_r", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.set_frame_on(False)
