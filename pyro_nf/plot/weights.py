"""Importance weights: the tail that decides whether they can be used, and k̂ per observation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyro_nf.infer._psis import psis
from pyro_nf.plot._common import BLACK, BLUE, GREY, ORANGE, Rows, as_column, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GOOD, _USABLE = 0.5, 0.7


def weight_tail(log_weights: Rows, *, ax: Axes | None = None) -> Axes:
    r"""Draws how often importance weights exceed a value, with the Pareto tail fitted to them.

    Both axes are logarithmic, so that a Pareto tail of shape k̂ > 0 bends towards a line of slope
    :math:`-1/\hat k`: the flatter, the more a mean over the draws hangs on the largest weight.

    Args:
        log_weights: Log importance weights of draws, shape ``(draws,)``, up to a constant; what is
            not finite counts as weight zero.
        ax: Matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        ValueError: If there are no weights, or none is finite.
        ImportError: If matplotlib is not installed.

    Examples:
        >>> import torch
        >>> from pyro_nf import plot
        >>> ax = plot.weight_tail(torch.randn(1000))
        >>> [line.get_label().split()[0] for line in ax.lines]
        ['draws', 'Pareto', 'mean']
    """
    raw = as_column("weight_tail", "log_weights", log_weights)
    smoothed, k_hat = psis(torch.from_numpy(raw))
    kept = np.isfinite(raw)
    order = np.argsort(raw[kept])[::-1]
    largest = raw[kept][order]  # from the largest down
    share = np.arange(1, len(largest) + 1) / len(raw)
    # The smoothed tail is the fit's quantiles; below it the weights are as they were, up to the
    # constant by which they were normalised.
    fitted = smoothed.numpy()[kept][order]
    fitted = fitted + (largest - fitted)[-1]
    tail = np.abs(fitted - largest) > 1e-9
    mean = _log_mean(largest, len(raw))
    axes = axes_or_new(ax, figsize=(6.0, 4.2))
    axes.plot(np.exp(largest - mean), share, ".", ms=4, mew=0, color=BLUE, label="draws")
    label = f"Pareto tail, k̂ = {k_hat:.2f}"
    axes.plot(np.exp(fitted - mean)[tail], share[tail], color=ORANGE, lw=1.6, label=label)
    axes.axvline(1.0, color=GREY, lw=0.8, ls=":", label="mean weight")
    axes.set(
        xscale="log", yscale="log", xlabel="weight / mean weight", ylabel="share of draws above"
    )
    ends = max(np.exp(largest[-1] - mean), 1e-3) / 1.5, 1.5 * np.exp(largest[0] - mean)
    axes.set_xlim(ends)  # tiny weights may be many, and say nothing
    axes.legend(loc="lower left")
    return axes


def k_hats(
    k_hat: Rows | Sequence[float], names: Sequence[str] | None = None, *, ax: Axes | None = None
) -> Axes:
    """Draws k̂ of each observation, as leave-one-out cross-validation gives them.

    Where k̂ is above .7 the importance weights that leave the observation out cannot be used: it
    moves the posterior too far.

    Args:
        k_hat: Shape ``(observations,)``, such as ``arviz.loo(..., pointwise=True).pareto_k``.
        names: A name for each observation, shown where k̂ is above .7; None for their numbers.
        ax: Matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        ValueError: If there is no value, or there are not as many names.
        ImportError: If matplotlib is not installed.

    Examples:
        >>> from pyro_nf import plot
        >>> ax = plot.k_hats([0.1, 0.3, 0.9], ["a", "b", "c"])
        >>> [text.get_text() for text in ax.texts]
        ['c']
    """
    values = as_column("k_hats", "k_hat", k_hat)
    labels = [str(i) for i in range(len(values))] if names is None else list(names)
    if len(labels) != len(values):
        raise ValueError(
            f"k_hats got {len(labels)} names for {len(values)} observations. Pass one for each."
        )
    axes = axes_or_new(ax, figsize=(6.4, 4.0))
    bad = values > _USABLE
    at = np.arange(len(values))
    axes.plot(at[~bad], values[~bad], "o", ms=4, mew=0, color=BLUE)
    axes.plot(at[bad], values[bad], "o", ms=5, mew=0, color=ORANGE)
    for i in np.flatnonzero(bad & np.isfinite(values)):
        axes.annotate(labels[i], (i, values[i]), xytext=(4, 3), textcoords="offset points")
    for level, style in ((_GOOD, ":"), (_USABLE, "--")):
        axes.axhline(level, color=BLACK, lw=0.8, ls=style)
    axes.set(xlabel="observation", ylabel="k̂", title=f"{bad.sum()} of {len(values)} above .7")
    return axes


def _log_mean(log_weights: np.ndarray, count: int) -> float:
    top = log_weights.max()
    return float(top + np.log(np.exp(log_weights - top).sum() / count))
