"""Flows in the plane: the density as an image, and the base space's grid, warped."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyro_nf._checks import positive_float, positive_int
from pyro_nf.distributions import Flow
from pyro_nf.plot._common import BLUE, ORANGE, Rows, as_rows, axes_or_new, padded_range
from pyro_nf.plot._planar import Bounds, check_planar, evaluated, like, one_context

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CHUNK = 10_000


def density(
    flow: Flow,
    data: Rows | None = None,
    *,
    context: Rows | None = None,
    bounds: Bounds | None = None,
    resolution: int = 200,
    max_points: int = 1000,
    ax: Axes | None = None,
) -> Axes:
    """Draws the density of a two-dimensional flow as an image, with data as points.

    Args:
        flow: A flow with event shape (2,).
        data: Points of shape ``(rows, 2)`` to draw above the image; None for none.
        context: One context, of shape ``(context_dim,)``, for a flow with context.
        bounds: ``((x0, x1), (y0, y1))``; None takes them from the data, or else from draws.
        resolution: Pixels along each side.
        max_points: Most points of the data to draw, evenly chosen.
        ax: Matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        ValueError: If flow or data are not two-dimensional.
        ImportError: If matplotlib is not installed.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows, plot
        >>> ax = plot.density(flows.maf(2), torch.randn(50, 2), resolution=20)
        >>> ax.images[0].get_array().shape
        (20, 20)
    """
    check_planar("density", flow)
    positive_int("density", "resolution", resolution)
    positive_int("density", "max_points", max_points)
    points = None if data is None else as_rows("density", "data", data, 2)
    axes = axes_or_new(ax)
    with evaluated(flow):
        distribution = flow(one_context(flow, context))
        if bounds is None:
            seen = distribution.sample((2000,)).cpu().numpy() if points is None else points
            bounds = _bounds(seen, central=0.998 if points is None else 1.0)
        # Pixels are scored at their centres.
        sides = [_centres(*side, resolution) for side in bounds]
        pixels = torch.cartesian_prod(*(like(flow, side) for side in sides))
        log_prob = torch.cat([distribution.log_prob(part) for part in pixels.split(_CHUNK)])
    image = axes.imshow(
        log_prob.exp().reshape(resolution, resolution).T.float().cpu().numpy(),
        extent=(*bounds[0], *bounds[1]),
        origin="lower",
        cmap="magma",
        interpolation="bilinear",
        aspect="equal",
        vmin=0,
    )
    beside = axes.inset_axes((1.03, 0.0, 0.04, 1.0))  # as high as the image, whatever its aspect
    axes.figure.colorbar(image, cax=beside, label="density")
    if points is not None:
        some = points[:: math.ceil(len(points) / max_points)]
        axes.plot(*some.T, ".", ms=3, mew=0, color="white", alpha=0.6, label="data")
        axes.legend(loc="upper right", markerscale=3, labelcolor="white", facecolor="black")
    axes.set(xlabel="$y_1$", ylabel="$y_2$", xlim=bounds[0], ylim=bounds[1])
    return axes


def grid(
    flow: Flow,
    *,
    context: Rows | None = None,
    extent: float = 2.5,
    lines: int = 21,
    resolution: int = 400,
    ax: Axes | None = None,
) -> Axes:
    """Draws what a two-dimensional flow does to a regular grid of its base space.

    Lines of constant :math:`x_1` and lines of constant :math:`x_2` have a colour each; a line is
    the fainter, the farther from the centre of the base it lies.

    Args:
        flow: A flow with event shape (2,) and a two-dimensional base.
        context: One context, of shape ``(context_dim,)``, for a flow with context.
        extent: The grid covers ``[-extent, extent]`` in both directions of the base space.
        lines: Number of lines in each direction.
        resolution: Points along a line.
        ax: Matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        ValueError: If the flow is not two-dimensional.
        ImportError: If matplotlib is not installed.

    Examples:
        >>> from pyro_nf import flows, plot
        >>> ax = plot.grid(flows.maf(2), lines=5)
        >>> [len(lines.get_segments()) for lines in ax.collections]
        [5, 5]
    """
    check_planar("grid", flow)
    positive_int("grid", "lines", lines)
    positive_int("grid", "resolution", resolution)
    extent = positive_float("grid", "extent", extent)
    axes = axes_or_new(ax)
    from matplotlib.collections import LineCollection  # known to exist, now that there are axes

    with evaluated(flow):
        transform = flow(one_context(flow, context)).transforms[0]
        levels = torch.linspace(-extent, extent, lines)
        along = torch.linspace(-extent, extent, resolution)
        fixed, moving = torch.meshgrid(levels, along, indexing="ij")  # (lines, resolution)
        upright = torch.stack([fixed, moving], -1)
        families = {"$x_1$ constant": upright, "$x_2$ constant": upright.flip(-1)}
        warped = {
            label: transform(like(flow, family).flatten(0, 1)).reshape(family.shape)
            for label, family in families.items()
        }
    faint = np.exp(-0.25 * levels.numpy() ** 2)
    for (label, family), color in zip(warped.items(), (BLUE, ORANGE), strict=True):
        axes.add_collection(
            LineCollection(
                list(family.float().cpu().numpy()),
                colors=color,
                linewidths=0.9,
                alpha=faint,
                label=label,
            )
        )
    axes.autoscale_view()
    axes.set(xlabel="$y_1$", ylabel="$y_2$", aspect="equal")
    legend = axes.legend(loc="best", framealpha=0.9)
    for handle in filter(None, legend.legend_handles):
        handle.set_alpha(1.0)
    return axes


def _bounds(points: np.ndarray, *, central: float) -> Bounds:
    first, second = (padded_range(column, margin=0.1, central=central) for column in points.T)
    return first, second


def _centres(low: float, high: float, count: int) -> np.ndarray:
    edges = np.linspace(low, high, count + 1)
    return (edges[1:] + edges[:-1]) / 2
