"""The latents of one row of a plate, and those outside of it."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints

from pyro_nf.infer._latents import LatentSpace
from pyro_nf.transforms._support.same import same_support


def find_plate(owner: str, trace: poutine.Trace, wish: str | None) -> Any:
    """Returns the frame of the plate whose rows have latents.

    Args:
        owner: Who asks, for messages.
        trace: A trace of the model.
        wish: The plate's name; None to take the subsampled plate, or the only one.

    Raises:
        ValueError: If there is none, or more than one to choose from.
    """
    frames = {
        frame.name: frame
        for site in _latents(trace).values()
        for frame in site["cond_indep_stack"]
        if frame.vectorized
    }
    if wish is not None and wish not in frames:
        raise ValueError(
            f"{owner} got plate={wish!r}, but the model's plates of latents are "
            f"{sorted(frames)}. Pass the name of one of them."
        )
    if not frames:
        raise ValueError(
            f"{owner} found no latent inside of a plate, so there is nothing to amortise. Use "
            "AutoFlow, whose flow covers latents outside of plates."
        )
    partial = {name for name, frame in frames.items() if frame.size != frame.full_size}
    if len(partial) > 1:
        raise ValueError(
            f"{owner} got latents in {len(partial)} subsampled plates, {sorted(partial)}; it "
            "takes one. Subsample one of them only, or write the others' guide by hand in an "
            "AutoGuideList."
        )
    names = [wish] if wish is not None else sorted(partial or frames)
    if len(names) > 1:
        raise ValueError(
            f"{owner} found latents in {len(names)} plates, {names}. Say by plate= which one has "
            "the rows that share a flow; the other latents count as global, or as parts of a row."
        )
    frame = frames[names[0]]
    if frame.full_size is None or frame.full_size < 0:
        raise ValueError(
            f"{owner} needs the size of plate {frame.name!r}. Pass it: "
            f"pyro.plate({frame.name!r}, size)."
        )
    return frame


def split_latents(
    owner: str, trace: poutine.Trace, plate: Any
) -> tuple[LatentSpace | None, LatentSpace]:
    """Returns the space of the latents outside of a plate, None if empty, and that of one row.

    Raises:
        ValueError: For what :class:`LatentSpace` refuses, a plate around this one, or supports
            that differ between rows.
    """
    outside, row = trace.copy(), trace.copy()
    for name, site in _latents(trace).items():
        inside = any(frame.name == plate.name for frame in site["cond_indep_stack"])
        (outside if inside else row).remove_node(name)
        if inside:
            row.nodes[name] = {**site, **_one_row(owner, name, site, plate)}
    return (
        LatentSpace(owner, outside) if _latents(outside) else None,
        LatentSpace(owner, row),
    )


def _latents(trace: poutine.Trace) -> dict[str, Any]:
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)
    }


def _one_row(owner: str, name: str, site: Any, plate: Any) -> dict[str, Any]:
    """What a site would be with a plate of one row, without the plate's dimension."""
    others = tuple(frame for frame in site["cond_indep_stack"] if frame.name != plate.name)
    for frame in others:
        if frame.vectorized and (frame.dim < plate.dim or frame.size != frame.full_size):
            raise ValueError(
                f"{owner} got site {name!r} in plate {frame.name!r} (dim {frame.dim}, "
                f"{frame.size} of {frame.full_size} rows) as well as in {plate.name!r} (dim "
                f"{plate.dim}). Plates inside of a row must lie to the right of its own and show "
                "all of their rows; a plate around it is not supported."
            )
    fn, value = site["fn"], site["value"]
    if value.ndim - fn.event_dim != -plate.dim:
        raise ValueError(
            f"{owner} got site {name!r} of batch shape {tuple(fn.batch_shape)} in plate "
            f"{plate.name!r} at dim {plate.dim}: dimensions left of the plate belong to no plate. "
            "Declare them as event dimensions by .to_event(...)."
        )
    axis = fn.event_dim - plate.dim
    support = fn.support if fn.support.is_discrete else _support_of_row(fn.support, axis)
    if support is None:
        raise ValueError(
            f"{owner} got site {name!r} whose support {fn.support} differs between rows of plate "
            f"{plate.name!r}; one flow is shared by all rows. Sample it on a fixed support, "
            "compute the bounded value from it, and add the Jacobian by pyro.factor."
        )
    return {
        "fn": SimpleNamespace(support=support, event_dim=fn.event_dim),
        "value": value.select(-axis, 0),
        "cond_indep_stack": others,
    }


def _support_of_row(support: constraints.Constraint, axis: int) -> constraints.Constraint | None:
    """The support without a dimension of its bounds, counted from the right from 1.

    Plates expand a site's bounds to their own shape. None if the bounds differ along it.
    """
    changes: dict[str, Any] = {}
    for name, part in vars(support).items():
        if isinstance(part, constraints.Constraint):
            changes[name] = _support_of_row(part, axis)
            if changes[name] is None:
                return None
        if isinstance(part, Tensor) and part.ndim >= axis:
            changes[name] = part.select(-axis, 0)
    if not changes:
        return support
    row = copy.copy(support)
    vars(row).update(changes)
    return row if same_support(support, row) else None
