"""Flows of images: Real NVP, Glow and Flow++ beside a histogram and a Gaussian, in bits.

Each model is fitted to small images of integers and scored on images that it has not seen, by the
bits per dimension that a lossless code built on it would take. Integers are made real by noise:
uniform, or, for Flow++, drawn by a second flow as well (variational dequantisation). The bound with
one draw of the noise is what training minimises; the average of importance weights over many draws
is closer to the true bits. Then Glow draws: samples at three temperatures, test images whose finer
levels are drawn anew, walks between test images in latent space, and images of each class.

    python examples/images.py            # four to five minutes on two cores
    python examples/images.py --quick    # a quarter of a minute, to see that it runs

The images are scikit-learn's digits, 8 x 8 pixels of 17 levels. ``--data FILE.npz`` takes others:
an array of integers (N, H, W), (N, C, H, W) or (N, H, W, C), height and width even, with
``--array`` its name, ``--labels`` that of its classes, and ``--levels`` the number of levels.

Numbers are printed; pictures go to ``out/``.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

# Before torch and NumPy are loaded: two processes with threads of their own would only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from torch.distributions import MultivariateNormal, constraints

from pyro_nf import flows, infer
from pyro_nf.distributions import Dequantized
from pyro_nf.transforms import MultiLevel

Shape = tuple[int, ...]

UNIT = constraints.unit_interval  # the flows model logits: many pixels lie at an end of the range


class Images(NamedTuple):
    """Images and their classes.

    Attributes:
        x: Integers, ``(images, channels, height, width)``.
        context: Classes as one-hot vectors, ``(images, classes)``, or None.
    """

    x: Tensor
    context: Tensor | None


class Split(NamedTuple):
    """Images to train on, to stop and choose by, and to test on, of so many levels."""

    train: Images
    validation: Images
    test: Images
    levels: int


class Model(NamedTuple):
    """How a flow of images is made, and the size of the steps by which it is trained."""

    make: Callable[[Shape, int, int], Dequantized]
    step_milliseconds: float


class Fitted(NamedTuple):
    """A fitted flow and what it cost.

    Attributes:
        flow: The flow.
        bits: Of each test image per dimension: by one draw of the noise and by many,
            ``(2, images)``.
        seconds: Training took so long.
        steps: Training took so many.
    """

    flow: Dequantized
    bits: Tensor
    seconds: float
    steps: int


def noise(shape: Shape) -> flows.Flow:
    """The flow of the noise: small, for it is drawn at every step."""
    return flows.dequantizer(shape, hidden_dims=(16,))


def realnvp(shape: Shape, levels: int, context_dim: int) -> Dequantized:
    """Real NVP."""
    return Dequantized(flows.realnvp(shape, hidden_dims=(16, 16), support=UNIT), levels)


def glow(shape: Shape, levels: int, context_dim: int) -> Dequantized:
    """Glow."""
    flow = flows.glow(
        shape, transforms=12, hidden_dims=(32, 32), context_dim=context_dim, support=UNIT
    )
    return Dequantized(flow, levels)
