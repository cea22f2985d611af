"""What the pictures share: colours, axes, and arrays made of what is handed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Tensor | np.ndarray

BLUE, ORANGE, GREY, BLACK = "#2f6db3", "#e07b39", "#9aa3ad", "#22262b"


def pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'pyro_nf.plot needs matplotlib. Install it with: pip install "pyro_nf[plot]"'
        ) from error
    return plt


def axes_or_new(ax: Axes | None, figsize: tuple[float, float] = (5.6, 5.0)) -> Axes:
    if ax is not None:
        return ax
    return pyplot().subplots(figsize=figsize, layout="constrained")[1]


def as_rows(owner: str, name: str, value: Rows, columns: int | None) -> np.ndarray:
    array = value.detach().cpu().double().numpy() if isinstance(value, Tensor) else value
    array = np.asarray(array, dtype=float)
    wanted = columns is None or array.shape[-1:] == (columns,)
    if array.ndim != 2 or len(array) == 0 or not wanted:
        expected = "columns" if columns is None else str(columns)
        raise ValueError(
            f"{owner} got {name} of shape {array.shape}. Pass shape (rows, {expected})."
        )
    return array


def padded_range(values: np.ndarray, *, margin: float, central: float) -> tuple[float, float]:
    low, high = np.nanquantile(values, [0.5 - central / 2, 0.5 + central / 2])
    room = margin * (high - low) or 0.5
    return float(low - room), float(high + room)


def as_column(
    owner: str, name: str, value: Rows | Sequence[float], rows: int | None = None
) -> np.ndarray:
    array = value.detach().cpu().double().numpy() if isinstance(value, Tensor) else value
    array = np.asarray(array, dtype=float)
    if array.ndim != 1 or len(array) == 0 or rows not in (None, len(array)):
        raise ValueError(
            f"{owner} got {name} of shape {array.shape}. Pass shape "
            f"({'rows' if rows is None else rows},)."
        )
    return array
