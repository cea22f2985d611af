"""The course of a guide's fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyro_nf.plot._common import BLUE, GREY, ORANGE, axes_or_new, padded_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WINDOW = 50


def elbo_trace(
    losses: Sequence[float], elbo: float, elbo_se: float, ax: Axes | None = None
) -> Axes:
    """Draws the ELBO of each step, its running mean with standard error, and the final value.

    Args:
        losses: Negative ELBO of each step, in nats; NaN where a step was skipped.
        elbo: The ELBO at the end, from fresh draws.
        elbo_se: Its standard error.
        ax: Matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is not installed.

    Examples:
        >>> from pyro_nf import plot
        >>> axes = plot.elbo_trace([2.0, 1.5, 1.25], elbo=-1.2, elbo_se=0.01)
        >>> axes.get_ylabel()
        'ELBO (nats)'
    """
    axes = axes_or_new(ax, figsize=(6.4, 4.0))
    values = -np.asarray(losses, dtype=float)
    values = values[np.isfinite(values)]
    axes.plot(np.arange(1, len(values) + 1), values, color=GREY, lw=0.5, alpha=0.5, label="steps")
    if len(values) >= _WINDOW:
        windows = np.lib.stride_tricks.sliding_window_view(values, _WINDOW)
        at = np.arange(_WINDOW, len(values) + 1)
        mean, error = windows.mean(1), windows.std(1) / _WINDOW**0.5
        axes.plot(at, mean, color=BLUE, lw=1.5, label=f"mean of {_WINDOW} steps ± se")
        axes.fill_between(at, mean - error, mean + error, color=BLUE, alpha=0.25, lw=0)
    label = f"at the end: {elbo:.3f} ± {elbo_se:.3f}"
    axes.axhline(elbo, color=ORANGE, lw=1.0, ls="--", label=label)
    late = np.append(values[len(values) // 4 :], elbo)
    axes.set_ylim(padded_range(late, margin=0.1, central=0.98))
    axes.set(xlabel="step", ylabel="ELBO (nats)")
    axes.legend(loc="lower right")
    return axes
