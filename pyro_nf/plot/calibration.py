"""Simulation-based calibration as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyro_nf.plot._common import BLUE, GREY, ORANGE, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyro_nf.infer.calibration import CalibrationResult

_MOST_LABELS = 6


def calibration(result: CalibrationResult, ax: Axes | None = None) -> Axes:
    """Draws how the ECDFs of ranks differ from uniform, with the band they should stay within.

    The band holds each of them whole, all together, with probability 1 - significance. A curve
    above it on the left and below it on the right belongs to a guide that is too narrow.

    Args:
        result: What :func:`pyro_nf.infer.sbc` returned.
        ax: Matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is not installed.

    Examples:
        >>> import torch, pyro
        >>> import pyro.distributions as dist
        >>> from pyro_nf import infer
        >>> def model(y):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(z, 1.0), obs=y)
        >>> def guide(y):
        ...     pyro.sample("z", dist.Normal(y / 2, 0.5**0.5))
        >>> result = infer.sbc(
        ...     model,
        ...     guide,
        ...     torch.tensor(0.0),
        ...     amortized=True,
        ...     arguments=lambda data: (data["y"],),
        ...     num_simulations=20,
        ...     num_draws=9,
        ... )
        >>> result.plot().get_ylabel()
        'ECDF - uniform'
    """
    axes = axes_or_new(ax, figsize=(6.4, 4.0))
    points = result.test.points
    lower, upper = result.test.band(result.significance / result.num_quantities)
    axes.fill_between(points, lower - points, upper - points, color=GREY, alpha=0.35, lw=0)
    axes.axhline(0, color="black", lw=0.8)
    flagged = list(result.flagged())
    for name, values in result.quantities().items():
        difference = np.searchsorted(np.sort(values), points, side="right") / len(values) - points
        if name not in flagged:
            axes.plot(points, difference, color=BLUE, lw=0.8, alpha=0.7)
            continue
        label = name if flagged.index(name) < _MOST_LABELS else None
        axes.plot(points, difference, color=ORANGE, lw=1.4, label=label)
    axes.set(xlim=(0, 1), xlabel="fractional rank", ylabel="ECDF - uniform")
    axes.set_title(result.verdict.split(";")[0], fontsize="medium")
    if flagged:
        axes.legend(loc="best")
    return axes
