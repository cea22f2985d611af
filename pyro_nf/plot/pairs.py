"""Data beside samples, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyro_nf._checks import positive_int
from pyro_nf.plot._common import BLACK, BLUE, Rows, as_rows, padded_range, pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def pairs(
    data: Rows,
    samples: Rows,
    names: Sequence[str] | None = None,
    *,
    labels: tuple[str, str] = ("data", "samples"),
    max_points: int = 500,
) -> Figure:
    """Draws data beside a model's samples: a histogram for each column, a scatter for each pair.

    The axes follow the data, so that a few stray samples do not squeeze all else together.

    Args:
        data: Shape ``(rows, columns)``.
        samples: Shape ``(draws, columns)``.
        names: A label for each column; None for ``y_1``, ``y_2`` and so on.
        labels: What data and samples are called in the legend.
        max_points: Most points of each in a scatter, evenly chosen, and as many of one as of the
            other.

    Returns:
        The figure.

    Raises:
        ValueError: If the columns of data, samples and names are not as many.
        ImportError: If matplotlib is not installed.

    Examples:
        >>> import torch
        >>> from pyro_nf import plot
        >>> figure = plot.pairs(torch.randn(40, 3), torch.randn(40, 3), names=["a", "b", "c"])
        >>> len(figure.axes)
        6
    """
    positive_int("pairs", "max_points", max_points)
    real = as_rows("pairs", "data", data, None)
    drawn = as_rows("pairs", "samples", samples, real.shape[1])
    columns = real.shape[1]
    titles = [f"$y_{{{i + 1}}}$" for i in range(columns)] if names is None else list(names)
    if len(titles) != columns:
        raise ValueError(
            f"pairs got {len(titles)} names for {columns} columns. Pass one for each column."
        )
    limits = [padded_range(column, margin=0.08, central=1.0) for column in real.T]
    points = min(max_points, len(real), len(drawn))
    size = min(2.1 * columns, 14.0)
    figure, cells = pyplot().subplots(
        columns, columns, figsize=(size, size), squeeze=False, layout="constrained"
    )
    for row in range(columns):
        for column in range(columns):
            axes = cells[row][column]
            if column > row:
                axes.remove()
                continue
            axes.set_xlim(limits[column])
            if row == column:
                _histograms(axes, real[:, row], drawn[:, row], limits[row], labels)
            else:
                axes.set_ylim(limits[row])
                for values, color in ((real, BLACK), (drawn, BLUE)):
                    some = values[:: math.ceil(len(values) / points), [column, row]]
                    axes.plot(*some.T, "o", ms=2.6, mew=0, color=color, alpha=0.5)
            _label(axes, titles, row, column, last=columns - 1)
    handles, texts = cells[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="upper right")
    return figure


def _histograms(
    axes: Axes,
    real: np.ndarray,
    drawn: np.ndarray,
    limits: tuple[float, float],
    labels: tuple[str, str],
) -> None:
    count = int(np.clip(2 * len(real) ** (1 / 3), 8, 40))
    bins = list(np.linspace(*limits, count + 1))
    axes.hist(real, bins, density=True, color=BLACK, alpha=0.25, label=labels[0])
    axes.hist(drawn, bins, density=True, color=BLUE, histtype="step", lw=1.5, label=labels[1])
    axes.set_yticks([])


def _label(axes: Axes, labels: Sequence[str], row: int, column: int, last: int) -> None:
    """Labels the outer edge of a triangle of cells, and hides the inner tick labels."""
    if row == last:
        axes.set_xlabel(labels[column])
    else:
        axes.tick_params(labelbottom=False)
    if column == 0 and row > 0:
        axes.set_ylabel(labels[row])
    else:
        axes.tick_params(labelleft=False)
