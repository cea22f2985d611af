"""The results as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._peers.table import OURS, Row, columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = {
    OURS: "#d62728",
    f"{OURS}, compiled": "#ff9896",
    "pyro": "#1f77b4",
    "zuko": "#2ca02c",
    "nflows": "#9467bd",
    "normflows": "#8c564b",
    "flowjax": "#e6a000",
    "FFJORD": "#17becf",
    "floor": "#555555",
    "products": "#aaaaaa",
}
_MARKERS = {OURS: "D", f"{OURS}, compiled": "d", "floor": "_", "products": "_"}


def draw(rows: Sequence[Row], path: Path, title: str) -> None:
    """Draws each library's time over the best torch peer's, one panel for each operation.

    Args:
        rows: The results; those without a torch peer are left out.
        path: Where the PNG goes.
        title: What stands above.
    """
    from matplotlib.figure import Figure  # the extra "bench"; no window, no global state

    rows = [row for row in rows if row.best_peer is not None]
    operations = list(dict.fromkeys(row.operation for row in rows))
    if not operations:
        return
    panels = [[row for row in rows if row.operation == name] for name in operations]
    heights = [1 + 0.24 * max(map(len, panels[i : i + 2])) for i in range(0, len(panels), 2)]
    figure = Figure(figsize=(14, 1.4 + sum(heights)), layout="constrained")
    axes = list(figure.subplots(len(heights), 2, squeeze=False, height_ratios=heights).flat)
    names = [OURS, *columns(rows)]
    for axis, operation, panel in zip(axes, operations, panels, strict=False):
        _draw_panel(axis, panel, names)
        axis.set_title(operation, loc="left", fontsize=11)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    figure.supxlabel("time over that of the best other library in torch (left is faster)")
    handles = {h.get_label(): h for axis in axes for h in axis.collections}
    figure.legend(
        handles=[handles[name] for name in names if name in handles],
        loc="outside upper center",
        ncols=6,
        fontsize=9,
        title=title,
    )
    figure.savefig(path, dpi=110)


def _draw_panel(axis: Axes, panel: Sequence[Row], names: Sequence[str]) -> None:
    """Draws one operation, a line for each architecture."""
    for name in names:
        found = [(row.ratio(name), i) for i, row in enumerate(panel)]
        ratios = {i: ratio for ratio, i in found if ratio is not None}
        if not ratios:
            continue
        axis.scatter(
            list(ratios.values()),
            list(ratios),
            label=name,
            color=_COLORS.get(name.removesuffix(", exact"), "#000000"),
            marker=_MARKERS.get(name, "x" if name.endswith("exact") else "o"),
            s=60 if name == OURS else 28,
            zorder=3 if name == OURS else 2,
        )
    axis.axvline(1, color="black", linewidth=0.8, zorder=1)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_yticks(range(len(panel)), [_label(row) for row in panel], fontsize=8)
    axis.set_ylim(len(panel) - 0.5, -0.5)
    axis.grid(axis="x", which="both", linewidth=0.3)


def _label(row: Row) -> str:
    return f"{row.spec.family}  D={row.spec.dim} B={row.spec.batch}"
