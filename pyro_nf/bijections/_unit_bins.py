"""What splines share whose bins partition the unit interval: shares, knots, the bin of a value.

Everything works on flat elements: values ``(n,)``, rows ``(bins, n)``. The box [-bound, bound] is
mapped to [0, 1] on the way in and back on the way out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_nf._checks import positive_float, positive_int
from pyro_nf.bijections._base import ScalarBijection
from pyro_nf.bijections._elements import flat_elements


def check_bins(owner: str, bins: int, bound: float) -> None:
    """Raises the error of the first of the two options that is out of its range."""
    positive_int(owner, "bins", bins)
    positive_float(owner, "bound", bound)
    if bins == 1:
        raise ValueError(f"{owner} got bins=1, which has no interior knot. Pass bins=2 or more.")


def check_min_bin(owner: str, bins: int, min_bin: float) -> None:
    """Raises unless ``bins`` bins of the least size leave something of the box to share out."""
    positive_float(owner, "min_bin", min_bin)
    if bins * min_bin >= 1:
        raise ValueError(
            f"{owner} got bins={bins} and min_bin={min_bin}: the least bins alone take "
            f"{bins * min_bin:g} of the box. Pass min_bin below 1 / bins = {1 / bins:g}."
        )


def check_min_slope(owner: str, min_slope: float) -> None:
    """Raises unless 0 < ``min_slope`` < 1."""
    positive_float(owner, "min_slope", min_slope)
    if min_slope >= 1:
        raise ValueError(
            f"{owner} got min_slope={min_slope}, which excludes the identity. "
            "Pass min_slope below 1."
        )


def sizes_from(raw: Tensor, least: float) -> Tensor:
    """Creates bin sizes ``(bins, n)`` of sum 1, each at least ``least``, by a softmax."""
    return torch.softmax(raw, 0) * (1 - len(raw) * least) + least


def knots_from(sizes: Tensor) -> Tensor:
    """Creates the knots ``(bins + 1, n)`` from 0 to 1, the sum of the sizes.

    The last is 1 itself: the rounding of the sum would lose the end of the box.
    """
    first = torch.zeros_like(sizes[:1])
    return torch.cat([first, sizes[:-1].cumsum(0), torch.ones_like(first)])


def bin_of(value: Tensor, knots: Tensor) -> Tensor:
    """Finds the bin ``(n,)``, from 0, of each value; the first and last hold all beyond the ends.

    A NaN lies in the first bin, so that it may be gathered.
    """
    return (value >= knots[1:-1]).sum(0)


def pick(rows: Tensor, index: Tensor) -> Tensor:
    """Selects one row for each element: ``(rows, n)`` by ``(n,)`` to ``(n,)``."""
    return rows.gather(0, index.unsqueeze(0)).squeeze(0)


def share_of(value: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Computes how much of the way between two knots lies behind a value, in [0, 1].

    It is read off the knots and not off the bin's size, from which they differ by their rounding:
    so it is 0 at the left knot and 1 at the right.
    """
    # Very small bins may have merged knots, with a value on both.
    least = torch.finfo(value.dtype).eps ** 2
    return ((value - left) / (right - left).clamp(min=least)).clamp(0, 1)


def on_box(
    bijection: ScalarBijection,
    bound: float,
    unit_map: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    value: Tensor,
    params: Tensor,
) -> tuple[Tensor, Tensor]:
    """Applies a map of [0, 1] on the box, and the identity outside it.

    Args:
        bijection: The spline, for its parameter count and its name.
        bound: Half the side of the box.
        unit_map: From values ``(n,)`` and parameters ``(rows, n)`` to images in [0, 1] and
            log-derivatives.
        value: Any shape S.
        params: Shape ``(param_count, *S)``.

    Returns:
        Images and log-derivatives of shape S.
    """
    flat, raw, dtype = flat_elements(bijection, value, params)
    clamped = flat.clamp(-bound, bound)
    image, ladj = unit_map(clamped / (2 * bound) + 0.5, raw)
    outside = flat.abs() > bound  # NaN is not
    result = torch.where(outside, flat, (image - 0.5) * (2 * bound))
    ladj = torch.where(outside, 0, ladj)
    return result.view(value.shape).to(dtype), ladj.view(value.shape).to(dtype)
