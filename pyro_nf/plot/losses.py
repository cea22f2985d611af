"""The course of a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyro_nf.plot._common import BLUE, GREY, ORANGE, axes_or_new, padded_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyro_nf.infer import FitResult


def losses(result: FitResult, ax: Axes | None = None) -> Axes:
    """Draws the course of a fit: the training loss, its running mean, and the held-out loss.

    Args:
        result: What a fit returned, such as :func:`pyro_nf.infer.fit_density`.
        ax: Matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is not installed.

    Examples:
        >>> from pyro_nf import plot
        >>> from pyro_nf.infer import FitResult
        >>> result = FitResult([2.0, 1.5, 1.25], [(0, 2.25), (3, 1.5)], best_step=3, steps=3)
        >>> [line.get_label() for line in plot.losses(result).lines]
        ['training batches', 'running mean', 'held out', 'kept, step 3']
    """
    axes = axes_or_new(ax, figsize=(6.4, 4.0))
    train = np.asarray(result.train_losses, dtype=float)
    steps = np.arange(1, len(train) + 1)
    axes.plot(steps, train, color=GREY, lw=0.6, alpha=0.5, label="training batches")
    window = max(1, len(train) // 50)
    axes.plot(steps, _running_mean(train, window), color=BLUE, lw=1.6, label="running mean")
    held_out = np.asarray(result.validation_losses, dtype=float).reshape(-1, 2)
    if len(held_out):
        axes.plot(*held_out.T, color=ORANGE, lw=1.6, label="held out")
    if len(train):
        axes.axvline(
            result.best_step, color="black", lw=0.8, ls=":", label=f"kept, step {result.best_step}"
        )
    # The first steps of a fit are far off and would flatten all that follows.
    late = np.concatenate([train[len(train) // 20 :], held_out[len(held_out) // 20 :, 1]])
    late = late[np.isfinite(late)]
    if len(late):
        axes.set_ylim(padded_range(late, margin=0.08, central=0.99))
    axes.set(xlabel="step", ylabel=f"loss ({result.unit})")
    axes.legend(loc="upper right")
    return axes


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean over the last ``window`` finite values at each place (fewer at the start)."""
    finite = np.isfinite(values)
    sums = np.cumsum(np.where(finite, values, 0.0))
    counts = np.cumsum(finite)
    sums[window:] -= sums[:-window].copy()
    counts[window:] -= counts[:-window].copy()
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
