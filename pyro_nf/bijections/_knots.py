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
from pyro_nf._tracing import is_traced

# Above it softplus(a) is taken for a: the error e^-40 is below the precision of float64.
_SOFTPLUS_THRESHOLD = 40.0
# Below so many elements a call costs more than its arithmetic.
_FEW = 1024


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
    passed: Tensor  # (bins - 1, n), 1 where the element lies at or right of each interior knot
    bin: Tensor  # (n,), its number, from 0
    interior: Tensor  # (2, n), 1 where the [left, right] slope is learned; one 1 if all are
    start: Tensor  # (2, n), [x, y] of the left knot
    end: Tensor  # (2, n), [x, y] of the right knot
    sizes: Tensor  # (2, n), width and height
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
    knots = _knots(box, shares)
    passed = _passed(value, knots[axis, 1:-1])
    index = passed.sum(0).long()
    # One flat selection of both axes is faster than a gather.
    columns = torch.arange(2 * n, device=value.device).view(2, n)
    flat = torch.add(columns, index, alpha=n).flatten()
    corners = knots.flatten(1).index_select(1, flat).view(2, 2, n)  # [x, y] of [left, right]
    start, end = corners.unbind(1)
    first = 0 if box.free_ends else -1
    rows = index + torch.arange(first, first + 2, device=value.device).unsqueeze(1)
    if not box.free_ends:
        # At an end of the box the nearest interior slope stands in, to be replaced.
        rows = rows.clamp(0, box.bins - 2)
    raw_slopes = params[box.slope_rows].gather(0, rows).add_(box.slope_offset)
    slopes = F.softplus(raw_slopes, threshold=_SOFTPLUS_THRESHOLD).add_(box.min_slope)
    interior = one = slopes.new_ones(())
    if not box.free_ends:
        interior = torch.stack([passed[0], 1 - passed[-1]])
        slopes = torch.lerp(one, slopes, interior)
    sizes = end - start
    return Cell(shares, passed, index, interior, start, end, sizes, rows, raw_slopes, slopes)


def _passed(value: Tensor, knots: Tensor) -> Tensor:
    """1 where a value lies at or right of a knot, else 0.

    A comparison in place gives numbers: to convert booleans takes several times as long.
    """
    beyond = (value - knots).detach()
    return (beyond >= 0).to(value.dtype) if is_traced() else beyond.ge_(0)


def _knots(box: Box, shares: Tensor) -> Tensor:
    """Creates the knots ``(2, bins + 1, n)``, the ends of the box first and last.

    Row by row takes a fraction of cumsum's time on a CPU, unless calls count for more than sums. A
    triangular matrix product would do as well, but TF32 and autocast round it to three digits.
    """
    knots = shares.new_empty(2, box.bins + 1, shares.shape[2])
    knots[:, 0].fill_(-box.bound)
    lengths = knots[:, 1:-1].fill_(box.least_length)
    lengths.add_(shares[:, :-1], alpha=box.shared_length)
    if shares.shape[2] < _FEW:
        knots = knots.cumsum(1)
    else:
        for k in range(1, box.bins):
            knots[:, k].add_(knots[:, k - 1])
    knots[:, -1].fill_(box.bound)
    return knots
