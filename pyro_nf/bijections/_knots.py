"""What monotone splines share: a box, its knots, and the bin that an element falls into.

Everything works on flat elements: values ``(n,)``, raw parameters ``(rows, n)``. The raw rows lie
in the order widths ``(bins)``, heights ``(bins)``, slopes ``(bins ± 1)``, then what else the
spline has.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_nf._checks import choice, positive_float, positive_int

# Above it softplus(a) is taken for a: the error e^-40 is below the precision of float64.
_SOFTPLUS_THRESHOLD = 40.0


class Box(NamedTuple):
    """The options that shape the knots of a spline on ``[-bound, bound]²``."""

    bins: int
    bound: float
    boundary_slopes: str
    min_bin: float
    min_slope: float

    @property
    def free_ends(self) -> bool:
        """Whether the slopes at the two ends are learned."""
        return self.boundary_slopes == "learned"

    @property
    def slope_rows(self) -> slice:
        """The rows of the raw parameters that hold slopes."""
        return slice(2 * self.bins, 3 * self.bins + (1 if self.free_ends else -1))

    @property
    def shared_length(self) -> float:
        """The length that the softmax shares out among the bins."""
        return 2 * self.bound * (1 - self.bins * self.min_bin)

    @property
    def least_length(self) -> float:
        """The length that every bin has besides its share."""
        return 2 * self.bound * self.min_bin

    @property
    def slope_offset(self) -> float:
        """The shift of raw slopes that makes a raw 0 the slope 1."""
        return math.log(math.expm1(1 - self.min_slope))


class Cell(NamedTuple):
    """The bin that holds each element, and what the gradient of the parameters needs."""

    shares: Tensor  # (2, bins, n), the softmax of the raw widths and heights
    passed: Tensor  # (bins - 1, n), whether the element lies at or right of each interior knot
    bin: Tensor  # (n,), its number, from 0
    interior: Tensor  # (2, n), 1 where the [left, right] knot is an interior one, else 0
    corners: Tensor  # (2, 2, n), [x, y] of the [left, right] knot
    slope_rows: Tensor  # (2, n), the row of the raw slope at the [left, right] knot
    raw_slopes: Tensor  # (2, n), the input of the softplus
    slopes: Tensor  # (2, n), the slope at the [left, right] knot


def check_box(owner: str, box: Box) -> None:
    """Raises the error of the first option that is out of its range."""
    positive_int(owner, "bins", box.bins)
    positive_float(owner, "bound", box.bound)
    choice(owner, "boundary_slopes", box.boundary_slopes, ("fixed", "learned"))
    positive_float(owner, "min_bin", box.min_bin)
    positive_float(owner, "min_slope", box.min_slope)
    if box.bins == 1:
        raise ValueError(f"{owner} got bins=1, which has no interior knot. Pass bins=2 or more.")
    if box.bins * box.min_bin >= 1:
        raise ValueError(
            f"{owner} got bins={box.bins} and min_bin={box.min_bin}: the least bins alone take "
            f"{box.bins * box.min_bin:g} of the box. Pass min_bin below 1 / bins = "
            f"{1 / box.bins:g}."
        )
    if box.min_slope >= 1:
        raise ValueError(
            f"{owner} got min_slope={box.min_slope}, which excludes the identity. "
            "Pass min_slope below 1."
        )


def locate(box: Box, value: Tensor, params: Tensor, axis: int) -> Cell:
    """Finds the bin of each element.

    Args:
        box: The shape of the knots.
        value: Elements inside the box, ``(n,)``.
        params: Raw parameters, ``(rows, n)``.
        axis: 0 if ``value`` lies along x, 1 if it lies along y.
    """
    n = value.numel()
    shares = torch.softmax(params[: 2 * box.bins].view(2, box.bins, n), 1)
    knots = _interior_knots(box, shares)
    passed = value >= knots[axis]
    # A sum in int8 is several times as fast as one in int64, and holds up to 127 interior knots.
    index = passed.sum(0, dtype=torch.int8 if box.bins <= 128 else torch.int16).long()
    interior = torch.stack([passed[0], ~passed[-1]]).to(value.dtype)
    # At an end of the box the nearest interior knot stands in, to be replaced.
    rows = torch.stack([(index - 1).clamp(min=0), index.clamp(max=box.bins - 2)])
    # One flat selection of both axes is faster than a gather.
    flat = torch.add(torch.arange(n, device=value.device), rows, alpha=n).flatten()
    corners = knots.flatten(1).index_select(1, flat).view(2, 2, n)
    corners = torch.lerp(_ends(box, value), corners, interior)
    if box.free_ends:
        rows = torch.stack([index, index + 1])
    raw_slopes = params[box.slope_rows].gather(0, rows) + box.slope_offset
    slopes = F.softplus(raw_slopes, threshold=_SOFTPLUS_THRESHOLD) + box.min_slope
    if not box.free_ends:
        slopes = torch.lerp(slopes.new_ones(()), slopes, interior)
    return Cell(shares, passed, index, interior, corners, rows, raw_slopes, slopes)


def _interior_knots(box: Box, shares: Tensor) -> Tensor:
    """Creates the knots ``(2, bins - 1, n)`` inside the box.

    Adding row by row takes about half of cumsum's time on a CPU. A triangular matrix product
    would do as well, but TF32 and autocast round it to three digits.
    """
    knots = (shares[:, :-1] * box.shared_length).add_(box.least_length)
    knots[:, 0].sub_(box.bound)
    for k in range(1, box.bins - 1):
        knots[:, k].add_(knots[:, k - 1])
    return knots


def _ends(box: Box, like: Tensor) -> Tensor:
    """The left and right end of the box, ``(2, 1)``."""
    ends = torch.linspace(-box.bound, box.bound, 2, dtype=like.dtype, device=like.device)
    return ends.unsqueeze(1)
