"""What a fit of a continuous flow costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyro_nf.plot._common import BLUE, ORANGE, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyro_nf.infer import FitResult


def evaluations(result: FitResult, ax: Axes | None = None) -> Axes:
    """Draws how often each step's solves evaluated the vector fields of a continuous flow.

    Args:
        result: What :func:`pyro_nf.infer.fit_density` returned.
        ax: Matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        ValueError: If the fit solved no equation.
        ImportError: If matplotlib is not installed.

    Examples:
        >>> from pyro_nf import plot
        >>> from pyro_nf.infer import FitResult
        >>> result = FitResult([2.0, 1.5], steps=2, evaluations=[(20, 26), (26, 32)])
        >>> [line.get_label() for line in plot.evaluations(result).lines]
        ['forward', 'backward']
    """
    if not result.evaluations:
        raise ValueError(
            "evaluations got the result of a fit that solved no equation. Pass that of "
            "fit_density for a flow with a Continuous layer, or draw plot.losses(result)."
        )
    counts = np.asarray(result.evaluations)  # (steps, 2)
    steps = np.arange(1, len(counts) + 1)
    axes = axes_or_new(ax, figsize=(6.4, 4.0))
    axes.plot(steps, counts[:, 0], color=BLUE, lw=1.2, label="forward")
    if counts[:, 1].any():  # backpropagation through the solver's steps takes none
        axes.plot(steps, counts[:, 1], color=ORANGE, lw=1.2, label="backward")
    axes.set_ylim(bottom=0)
    axes.set(xlabel="step", ylabel="evaluations of the field")
    axes.legend(loc="best")
    return axes
