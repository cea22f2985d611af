"""Products with masked weights that leave out most of what the mask cuts.

Of a masked network's weights about half are zero, and its hidden units are sorted, so that the
zeros lie above a staircase. In bands of rows, each read only as far as its columns go, two bands
save a quarter of the arithmetic and four three eighths. It pays on a CPU where matrices are large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_LEAST_ROWS = 64  # of a band: in thinner ones a product loses what it saves
_MOST_BANDS = 4
_LEAST_SAVING = 0.1
_LEAST_MULTIPLICATIONS = 2**22  # of a band: smaller ones cost more in calls than they save


class Band(NamedTuple):
    """A block of a weight outside of which its rows are zero."""

    rows: slice
    columns: slice


Bands = tuple[Band, ...]

# By mask, with its version: a mask that is written to, or another in its place, is read anew.
_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def bands_of(mask: Tensor | None, batch: int) -> Bands | None:
    """Finds the bands of a mask for products with a batch of this size; None where none pay."""
    if mask is None or mask.device.type != "cpu" or mask.is_inference():
        return None
    if mask.numel() * batch < _LEAST_MULTIPLICATIONS:
        return None
    known = _known.get(mask)
    state = mask._version, mask.data_ptr()
    if known is None or known[0] != state:
        known = state, _find(mask)
        _known[mask] = known
    bands = known[1]
    if bands is None or min(map(_area, bands)) * batch < _LEAST_MULTIPLICATIONS:
        return None
    return bands


def _find(mask: Tensor) -> Bands | None:
    """Cuts the rows evenly, and each band's columns at what its rows read."""
    rows = mask.shape[0]
    count = min(_MOST_BANDS, rows // _LEAST_ROWS)
    if count < 2:
        return None
    bands = []
    for i in range(count):
        start, stop = rows * i // count, rows * (i + 1) // count
        read = (mask[start:stop] != 0).any(0).nonzero().flatten().tolist()
        if not read:
            return None
        bands.append(Band(slice(start, stop), slice(read[0], read[-1] + 1)))
    # One that reads everything comes first: the others may then be added to what it makes.
    bands.sort(key=_area, reverse=True)
    if sum(map(_area, bands)) > (1 - _LEAST_SAVING) * mask.numel():
        return None
    return tuple(bands)


def _area(band: Band) -> int:
    rows, columns = band
    return (rows.stop - rows.start) * (columns.stop - columns.start)


def banded_rows(shift: Tensor, x: Tensor, weight: Tensor, bands: Bands) -> Tensor:
    """``x @ weight.t() + shift``: x ``(N, I)``, shift ``(O,)`` or ``(N, O)``; ``(N, O)``."""
    result = x.new_empty(x.shape[0], weight.shape[0])
    for rows, columns in bands:
        part = shift[..., rows]
        torch.addmm(part, x[:, columns], weight[rows, columns].t(), out=result[:, rows])
    return result


def banded_weight_grad(grad: Tensor, x: Tensor, bands: Bands) -> Tensor:
    """``grad @ x`` inside the bands, zero outside: grad ``(O, N)``, x ``(N, I)``; ``(O, I)``."""
    result = grad.new_zeros(grad.shape[0], x.shape[1])
    for rows, columns in bands:
        torch.mm(grad[rows], x[:, columns], out=result[rows, columns])
    return result


def banded_input_grad(grad: Tensor, weight: Tensor, bands: Sequence[Band]) -> Tensor:
    """``grad.t() @ weight``: grad ``(O, N)``, weight ``(O, I)``; ``(N, I)``."""
    (rows, columns), *others = bands
    if columns == slice(0, weight.shape[1]):
        result = torch.mm(grad[rows].t(), weight[rows])
    else:
        result, others = grad.new_zeros(grad.shape[1], weight.shape[1]), list(bands)
    for rows, columns in others:
        result[:, columns].addmm_(grad[rows].t(), weight[rows, columns])
    return result
