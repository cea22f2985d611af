"""Continuous layers in the plane: their vector field, and the paths along it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pyro_nf._checks import positive_int
from pyro_nf.plot._common import BLUE, ORANGE, Rows, as_rows, axes_or_new
from pyro_nf.plot._planar import Bounds, evaluated, like, one_context
from pyro_nf.transforms import Continuous

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def vector_field(
    layer: Continuous,
    time: float,
    *,
    context: Rows | None = None,
    bounds: Bounds = ((-3.0, 3.0), (-3.0, 3.0)),
    arrows: int = 21,
    ax: Axes | None = None,
) -> Axes:
    """Draws the velocities of a two-dimensional continuous layer at one time.

    Args:
        layer: A layer of two dimensions.
        time: The time, between 0 and the layer's end time.
        context: One context, of shape ``(context_dim,)``, for a layer with context.
        bounds: ``((x0, x1), (y0, y1))``, in the coordinates of the layer.
        arrows: Number of arrows along each side.
        ax: Matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        TypeError: If the layer is no continuous one.
        ValueError: If it is not two-dimensional.
        ImportError: If matplotlib is not installed.

    Examples:
        >>> from pyro_nf import plot
        >>> from pyro_nf.nn import FieldMLP
        >>> from pyro_nf.transforms import Continuous
        >>> ax = plot.vector_field(Continuous(FieldMLP(2)), 0.5, arrows=5)
        >>> ax.collections[0].N
        25
    """
    _check_layer("vector_field", layer)
    positive_int("vector_field", "arrows", arrows)
    axes = axes_or_new(ax)
    x, y = np.meshgrid(*(np.linspace(*side, arrows) for side in bounds))
    points = like(layer, np.stack([x.ravel(), y.ravel()], 1))
    fixed = one_context(layer, context)
    with evaluated(layer):
        t = points.new_tensor(time)
        rows = () if fixed is None else (fixed.expand(len(points), -1),)
        velocity = layer.field(t, points, *rows).float().cpu().numpy()
    speed = np.linalg.norm(velocity, axis=1)
    axes.quiver(x.ravel(), y.ravel(), *velocity.T, speed, cmap="viridis", pivot="mid")
    axes.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal", title=f"t = {time:g}")
    return axes


def trajectories(
    layer: Continuous,
    x: Rows,
    *,
    context: Rows | None = None,
    times: int = 20,
    ax: Axes | None = None,
) -> Axes:
    """Draws the paths of points through a two-dimensional continuous layer, base to data.

    Cost: one solve for each of the times.

    Args:
        layer: A layer of two dimensions.
        x: Points on the base side, shape ``(rows, 2)``.
        context: One context, of shape ``(context_dim,)``, for a layer with context.
        times: Number of points along a path beside its beginning, equally spaced in time.
        ax: Matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        TypeError: If the layer is no continuous one.
        ValueError: If layer or points are not two-dimensional.
        ImportError: If matplotlib is not installed.

    Examples:
        >>> import torch
        >>> from pyro_nf import plot
        >>> from pyro_nf.nn import FieldMLP
        >>> from pyro_nf.transforms import Continuous
        >>> ax = plot.trajectories(Continuous(FieldMLP(2)), torch.randn(7, 2), times=3)
        >>> len(ax.collections[0].get_segments())
        7
    """
    _check_layer("trajectories", layer)
    positive_int("trajectories", "times", times)
    start = like(layer, as_rows("trajectories", "x", x, 2))
    axes = axes_or_new(ax)
    from matplotlib.collections import LineCollection  # known to exist, now that there are axes

    with evaluated(layer):
        paths = _paths(layer, start, one_context(layer, context), times).float().cpu().numpy()
    axes.add_collection(LineCollection(list(paths), colors="black", linewidths=0.5, alpha=0.4))
    axes.plot(*paths[:, 0].T, ".", ms=4, mew=0, color=BLUE, label="base")
    axes.plot(*paths[:, -1].T, ".", ms=4, mew=0, color=ORANGE, label="data")
    axes.legend(loc="upper right", markerscale=2)
    axes.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
    return axes


def _paths(layer: Continuous, start: Tensor, context: Tensor | None, times: int) -> Tensor:
    """The states on the way, shape ``(rows, times + 1, 2)``."""
    end = float(layer.end_time)
    reached = [
        layer.until(end * (i + 1) / times).forward_and_ladj(start, context)[0]
        for i in range(times)
    ]
    return torch.stack([start, *reached], 1)


def _check_layer(owner: str, layer: Continuous) -> None:
    if not isinstance(layer, Continuous):
        raise TypeError(
            f"{owner} got a {type(layer).__name__}. Pass a continuous layer: of flows.cnf(2) it "
            "is flow.transform.parts[0]."
        )
    if layer.input_dim != 2:
        raise ValueError(
            f"{owner} got a layer with input_dim={layer.input_dim}; it draws the plane. Pass a "
            "layer of two dimensions."
        )
