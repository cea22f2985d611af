"""Flows of images that are built in every library: Glow with a standard normal at every level."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks._peers.architecture import Family, Operation

IMAGE_OPERATIONS: tuple[Operation, ...] = ("train", "log_prob", "sample")


@dataclass(frozen=True)
class ImageSpec:
    """One Glow and the batch that it is timed on.

    Data -> base, a level squeezes the image and takes steps of an activation normalisation, a 1×1
    convolution in triangular factors and an affine coupling, whose network has kernels of 3×3, 1×1
    and 3×3 pixels with rectifiers between; then half of the channels leaves.

    Args:
        shape: Channels, height and width.
        batch: Images in a batch.
        hidden: Channels of the networks' hidden layers.
        levels: Number of levels.
        steps: Steps of each.
    """

    shape: tuple[int, int, int]
    batch: int
    hidden: int
    levels: int
    steps: int = 4
    family: str = "glow"

    @property
    def kind(self) -> Family:
        """What is timed."""
        return Family(IMAGE_OPERATIONS)

    @property
    def dim(self) -> str:
        """The image's shape, for the tables."""
        return "×".join(map(str, self.shape))

    @property
    def event(self) -> tuple[int, int, int]:
        """Shape of one draw."""
        return self.shape

    @property
    def size(self) -> int:
        """Numbers in an image."""
        return math.prod(self.shape)

    @property
    def squeezed(self) -> list[tuple[int, int, int]]:
        """The shape on which each level's steps work, from the level nearest the data on."""
        channels, height, width = self.shape
        return [
            (channels * 2 ** (level + 2), height >> level + 1, width >> level + 1)
            for level in range(self.levels)
        ]

    def __str__(self) -> str:
        sizes = f"H={self.hidden} B={self.batch}, {self.levels} levels × {self.steps} steps"
        return f"{self.family} {self.dim} {sizes}"


def image_specs() -> list[ImageSpec]:
    """Creates the list that is timed by default."""
    return [ImageSpec((1, 8, 8), 128, 32, 2), ImageSpec((3, 32, 32), 16, 64, 3)]


def quick_image_specs() -> list[ImageSpec]:
    """Creates a list for a look."""
    return [ImageSpec((1, 8, 8), 128, 32, 2)]
