"""The report card in pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyro_nf.plot._common import BLUE, ORANGE, padded_range, pyplot
from pyro_nf.plot.reweighted import base_space, reweighted
from pyro_nf.plot.weights import weight_tail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pyro_nf.infer._report.card import ReportCard, WeighedRows

_BARS = 12


def picture(card: ReportCard) -> Figure:
    """Draws the four pictures of a report card.

    Args:
        card: The card.

    Raises:
        ValueError: If no weight is finite.
    """
    weighed = card.weighed
    if weighed is None or not bool(weighed.log_weights.isfinite().any()):
        raise ValueError(
            "ReportCard.plot has nothing to draw: no draw has a finite weight. Refit the guide, "
            "or check the model's supports."
        )
    figure, cells = pyplot().subplots(2, 2, figsize=(11.0, 8.6), layout="constrained")
    if card.fit is not None and card.fit.losses:
        card.fit.plot(cells[0, 0])
    else:
        _log_weights(weighed, cells[0, 0])
    weight_tail(weighed.log_weights, ax=cells[0, 1])
    _most_shifted(weighed, cells[1, 0])
    if weighed.base is not None:
        base_space(weighed.base, weighed.log_weights, ax=cells[1, 1])
        cells[1, 1].set_title("posterior in the base space")
    else:
        _shifts(weighed, cells[1, 1])
    for axes, title in zip(cells.flat, ("course of the fit", "tail of the weights"), strict=False):
        axes.set_title(axes.get_title() or title)
    figure.suptitle(f"report card: {card.verdict}")
    return figure


def _log_weights(weighed: WeighedRows, axes: Axes) -> None:
    values = weighed.log_weights.double().cpu().numpy()
    values = values[np.isfinite(values)]
    shown = padded_range(values - values.mean(), margin=0.1, central=0.998)
    axes.hist(values - values.mean(), bins=60, range=shown, color=BLUE, alpha=0.6)
    axes.set(xlabel="log weight − ELBO (nats)", ylabel="draws", title="log weights", yscale="log")


def _most_shifted(weighed: WeighedRows, axes: Axes) -> None:
    """The two columns that reweighting moves most; of a single column its weights."""
    shift = weighed.shift.cpu().numpy()
    columns = np.argsort(shift)[::-1][:2].tolist()
    rows = weighed.rows.cpu().numpy()
    if len(columns) == 2:
        names = weighed.names[columns[0]], weighed.names[columns[1]]
        reweighted(rows[:, columns], weighed.log_weights, names, ax=axes)
    else:
        excess = weighed.log_weights.double().cpu().numpy()
        axes.plot(rows[:, 0], excess - excess[np.isfinite(excess)].mean(), ".", ms=2, color=BLUE)
        axes.set(xlabel=weighed.names[0], ylabel="log weight − ELBO (nats)")
    axes.set_title("what reweighting moves most")


def _shifts(weighed: WeighedRows, axes: Axes) -> None:
    shift = weighed.shift.cpu().numpy()
    order = np.argsort(shift)[::-1][:_BARS]
    axes.barh([weighed.names[i] for i in order][::-1], shift[order][::-1], color=BLUE)
    axes.axvline(0.1, color=ORANGE, lw=1.0, ls="--", label="good below .1")
    axes.set(xlabel="shift of the mean by reweighting (sd)", title="shift of each coordinate")
    axes.legend(loc="lower right")
