"""What is built in every library: families of flows and their sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Operation = Literal["log_prob", "train", "sample", "vi", "inverse_grad"]

OPERATIONS: tuple[Operation, ...] = ("log_prob", "train", "sample", "vi", "inverse_grad")
DIMS = (2, 6, 43, 64, 784)
BATCHES = (128, 1024, 8192)

CNF_SIZES = ((2, 128), (6, 1024), (43, 128))

DENSITY: tuple[Operation, ...] = ("log_prob", "train")
DRAWS: tuple[Operation, ...] = ("sample", "vi")


@dataclass(frozen=True)
class Family:
    """What is timed of a kind of flow.

    Attributes:
        operations: What is timed.
        transforms: Number of layers; None for 5, or 3 at 784 dimensions.
        largest_dim: Dimensions above it are left out of ``--all``.
        by_draws: Whether parity is checked on a library's own draws, not on data: where drawing
            is the fast direction, or the one under test.
    """

    operations: tuple[Operation, ...]
    transforms: int | None = None
    largest_dim: int = 784
    by_draws: bool = False


FAMILIES: dict[str, Family] = {
    "realnvp": Family((*DENSITY, *DRAWS)),
    "maf": Family(DENSITY),
    "maf_inverse": Family(("sample", "inverse_grad"), 1, 64, by_draws=True),
    "iaf": Family(DRAWS, by_draws=True),
    "nsf_coupling": Family((*DENSITY, *DRAWS)),
    "nsf_autoregressive": Family(DENSITY),
    "nsf_inverse": Family(DRAWS, by_draws=True),
    "naf": Family(DENSITY, 1, 64),
    "bnaf": Family(DENSITY, 1, 64),
    "planar": Family(DRAWS, 8, by_draws=True),
    "cnf": Family(("train",), 1, 43),
}


@dataclass(frozen=True)
class Spec:
    """One architecture and the batch that it is timed on.

    Args:
        family: A key of ``FAMILIES``.
        dim: Number D of dimensions.
        batch: Rows in a batch.
        layers: Number of transforms; None for the family's own.
        bins: Bins of a spline.
        bound: Half the side of its box.
        units: Sigmoids that a unit of the neural autoregressive flow mixes.
        factor: Units that a block network has for each dimension.
    """

    family: str
    dim: int
    batch: int
    layers: int | None = None
    bins: int = 8
    bound: float = 3.0
    units: int = 16
    factor: int = 8

    @property
    def kind(self) -> Family:
        """What is timed."""
        return FAMILIES[self.family]

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one draw."""
        return (self.dim,)

    @property
    def transforms(self) -> int:
        """Number of layers."""
        own = self.kind.transforms or (3 if self.dim >= 784 else 5)
        return own if self.layers is None else self.layers

    @property
    def hidden(self) -> int | None:
        """Width of a conditioner's hidden layers; None where the family has no such networks."""
        if self.family == "planar":
            return None
        if self.family == "bnaf":
            return self.factor * self.dim
        if self.family == "cnf":
            return 64
        return next(width for most, width in _WIDTHS if self.dim <= most)

    @property
    def hidden_dims(self) -> tuple[int, ...]:
        """Widths of a conditioner's hidden layers."""
        return (self.hidden or 0,) * (1 if self.dim >= 784 else 2)

    @property
    def splits(self) -> bool:
        """Whether the layers are couplings."""
        return self.family in ("realnvp", "nsf_coupling")

    @property
    def splines(self) -> bool:
        """Whether the bijection is a spline."""
        return self.family.startswith("nsf")

    @property
    def params_per_input(self) -> int:
        """Parameters that a conditioner makes for each dimension that it moves."""
        if self.family == "naf":
            return 3 * self.units
        return 3 * self.bins - 1 if self.splines else 2

    def __str__(self) -> str:
        width = "" if self.hidden is None else f" H={self.hidden}"
        return f"{self.family} D={self.dim}{width} B={self.batch}, {self.transforms} transforms"


_WIDTHS = ((16, 64), (43, 128), (64, 256), (100_000, 1024))


def main_specs() -> list[Spec]:
    """Creates the list that is timed by default."""
    sizes = ((6, 128), (6, 1024), (43, 1024), (64, 1024))
    wanted = {family: CNF_SIZES if family == "cnf" else sizes for family in FAMILIES}
    return [Spec(family, *size) for family, sizes in wanted.items() for size in sizes]


def quick_specs() -> list[Spec]:
    """Creates one small architecture of each family."""
    return [Spec(family, 2 if family == "cnf" else 6, 128) for family in FAMILIES]


def all_specs() -> list[Spec]:
    """Creates every combination that makes sense."""
    return [spec for spec in _combinations() if _is_sensible(spec)]


def _combinations() -> Iterator[Spec]:
    for family in FAMILIES:
        for dim in DIMS:
            for batch in BATCHES:
                yield Spec(family, dim, batch)


def _is_sensible(spec: Spec) -> bool:
    """Says whether memory and minutes suffice for it."""
    if spec.family == "cnf":
        return (spec.dim, spec.batch) in CNF_SIZES
    # A library that unrolls D passes under autograd keeps the activations of all of them.
    most = 64 * 1024 if spec.kind.transforms == 1 else 784 * 1024
    return spec.dim <= spec.kind.largest_dim and spec.dim * spec.batch <= most
