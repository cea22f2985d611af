"""A guide's draws against themselves reweighted, and in the base space they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from pyro_nf._checks import positive_int
from pyro_nf.infer._psis import psis
from pyro_nf.plot._common import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    Rows,
    as_column,
    as_rows,
    axes_or_new,
    padded_range,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def reweighted(
    draws: Rows,
    log_weights: Rows,
    names: tuple[str, str] = ("$z_1$", "$z_2$"),
    *,
    max_points: int = 1000,
    ax: Axes | None = None,
) -> Axes:
    """Draws two coordinates of a guide's draws, raw and resampled by their importance weights.

    Where the two clouds differ the guide is not the posterior, and where a few points carry the
    second one the weights cannot mend it.

    Args:
        draws: Shape ``(draws, 2)``.
        log_weights: Log importance weights, ``(draws,)``; they are Pareto-smoothed.
        names: A label for each axis.
        max_points: Most points of each cloud.
        ax: Matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        ValueError: If the shapes do not fit, or no weight is finite.
        ImportError: If matplotlib is not installed.

    Examples:
        >>> import torch
        >>> from pyro_nf import plot
        >>> draws = torch.randn(500, 2)
        >>> ax = plot.reweighted(draws, draws[:, 0])
        >>> [line.get_label() for line in ax.lines]
        ['raw', 'reweighted']
    """
    positive_int("reweighted", "max_points", max_points)
    points = as_rows("reweighted", "draws", draws, 2)
    chosen = resampled(
        as_column("reweighted", "log_weights", log_weights, len(points)), max_points
    )
    axes = axes_or_new(ax)
    some = points[:: -(-len(points) // max_points)]
    axes.plot(*some.T, "o", ms=2.6, mew=0, color=GREY, alpha=0.5, label="raw")
    axes.plot(*points[chosen].T, "o", ms=2.6, mew=0, color=BLUE, alpha=0.5, label="reweighted")
    for bounds, column in ((axes.set_xlim, 0), (axes.set_ylim, 1)):
        both = np.concatenate([some[:, column], points[chosen, column]])
        bounds(padded_range(both[np.isfinite(both)], margin=0.08, central=0.998))
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.legend(loc="best", markerscale=3)
    return axes


def base_space(
    base_draws: Rows,
    log_weights: Rows | None = None,
    *,
    max_points: int = 1000,
    ax: Axes | None = None,
) -> Axes:
    """Draws the posterior in a flow's base space, where it is a standard normal if the flow is it.

    Points are taken back through the flow and resampled by their importance weights; of all
    coordinates the two whose mean or spread is farthest from a standard normal's are shown, with
    the circles that hold half and 95 % of it.

    Args:
        base_draws: Draws in the base space, shape ``(draws, D)``.
        log_weights: Log importance weights, ``(draws,)``; None if the points come from the
            posterior itself, or from data.
        max_points: Most points.
        ax: Matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        ValueError: If the shapes do not fit, or no weight is finite.
        ImportError: If matplotlib is not installed.

    Examples:
        >>> import torch
        >>> from pyro_nf import plot
        >>> ax = plot.base_space(torch.randn(500, 4) * torch.tensor([1.0, 1.0, 2.0, 1.0]))
        >>> "3" in ax.get_xlabel()
        True
    """
    positive_int("base_space", "max_points", max_points)
    points = as_rows("base_space", "base_draws", base_draws, None)
    if log_weights is not None:
        weights = as_column("base_space", "log_weights", log_weights, len(points))
        points = points[resampled(weights, len(points))]
    points = points[np.isfinite(points).all(1)]
    departure = np.abs(points.mean(0)) + np.abs(np.log(points.std(0) + 1e-12))
    columns = np.argsort(departure)[::-1][:2]
    axes = axes_or_new(ax)
    some = points[:: -(-len(points) // max_points)]
    if len(columns) == 2:
        axes.plot(*some[:, columns].T, "o", ms=2.6, mew=0, color=BLUE, alpha=0.5)
        angle = np.linspace(0, 2 * np.pi, 200)
        for share, style in ((0.5, "-"), (0.95, "--")):
            radius = np.sqrt(-2 * np.log(1 - share))
            label = f"{100 * share:.0f} % of N(0, 1)"
            axes.plot(
                radius * np.cos(angle), radius * np.sin(angle), style, color=ORANGE, label=label
            )
        axes.set(ylabel=f"base {columns[1] + 1}", aspect="equal")
    else:
        at = np.linspace(-4, 4, 200)
        axes.hist(points[:, 0], bins=40, density=True, color=BLUE, alpha=0.4)
        normal = np.exp(-(at**2) / 2) / np.sqrt(2 * np.pi)
        axes.plot(at, normal, color=BLACK, lw=1.2, label="N(0, 1)")
    axes.set_xlabel(f"base {columns[0] + 1}")
    axes.legend(loc="upper right")
    return axes


def resampled(log_weights: np.ndarray, count: int) -> np.ndarray:
    """Indices of ``count`` draws, each about its smoothed weight times, in order."""
    weights = psis(torch.from_numpy(log_weights))[0].exp().numpy()
    ends = np.cumsum(weights)
    grid = (np.arange(count) + 0.5) / count * ends[-1]
    return np.minimum(np.searchsorted(ends, grid, side="right"), len(weights) - 1)
