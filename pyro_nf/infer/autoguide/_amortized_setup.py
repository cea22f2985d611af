"""What a model tells the amortised guide: the plate, the latents in it and those outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger
from torch import Tensor

from pyro_nf.infer._latents import LatentSpace, check_steady
from pyro_nf.infer.autoguide._amortized_indices import IndexWatch, check_indices, watch_plates
from pyro_nf.infer.autoguide._amortized_rows import find_plate, split_latents


@dataclass(frozen=True)
class Layout:
    """The latents of a model with a plate of rows.

    Attributes:
        plate: The plate's frame.
        latents: The global latents; None without any.
        row_latents: The latents of one row.
        loc: First unconstrained values of the global latents; None without any.
        row_loc: Those of a row, the mean over the rows shown.
    """

    plate: Any
    latents: LatentSpace | None
    row_latents: LatentSpace
    loc: Tensor | None
    row_loc: Tensor


def find_layout(
    owner: str,
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    init_loc_fn: Callable[[dict[str, Any]], Tensor],
    create_plates: Callable[..., Any] | None,
    plate: str | None,
    per_row: bool,
) -> Layout:
    """Runs a model and finds its latents, or says why they cannot be amortised.

    Args:
        owner: Who asks, for messages.
        model: The model.
        args: Its arguments.
        kwargs: Its keyword arguments.
        init_loc_fn: First values of the latents.
        create_plates: The user's function that makes the plate.
        plate: The plate's name; None to find it.
        per_row: Whether the guide has parameters for each row.
    """
    watch = IndexWatch()
    with poutine.block(), torch.no_grad(), watch:
        trace = poutine.trace(InitMessenger(init_loc_fn)(model)).get_trace(*args, **kwargs)
    own = watch_plates(create_plates, args, kwargs)
    if plate is None and own is not None and len(own.plates) == 1:
        plate = own.plates[0]
    frame = find_plate(owner, trace, plate)
    check_indices(owner, frame, watch, own, per_row=per_row)
    latents, row_latents = split_latents(owner, trace, frame)
    check_steady(owner, model, *args, **kwargs)
    return Layout(
        plate=frame,
        latents=latents,
        row_latents=row_latents,
        loc=None if latents is None else latents.unconstrain(_values(trace, latents)),
        row_loc=row_latents.unconstrain(_values(trace, row_latents)).mean(0),
    )


def _values(trace: poutine.Trace, space: LatentSpace) -> dict[str, Tensor]:
    return {name: trace.nodes[name]["value"].detach() for name in space.sites}
