"""Draws of a guide that are to be corrected by their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyro_nf.infer._draws import WeightedDraws, weighted_draws
from pyro_nf.infer._seeding import seeded
from pyro_nf.infer._validation import without_validation

Model = Callable[..., Any]


def proposals(
    owner: str,
    model: Model,
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    count: int,
    seed: int,
) -> WeightedDraws:
    """Draws ``count`` times from a guide, under a seed, and refuses weights that are noisy.

    Args:
        owner: Who asks, for messages.
        model: The model.
        guide: The guide.
        args: Their arguments.
        kwargs: Their keyword arguments, if any.
        count: Number of draws.
        seed: Seed of the draws.

    Raises:
        ValueError: If a plate shows a random part of the data.
    """
    # A draw far out may overflow in the model; its weight is then zero.
    with seeded(seed), without_validation():
        draws = weighted_draws(model, guide, args, dict(kwargs or {}), count)
    refuse_noisy(owner, noisy=draws.noisy)
    return draws


def refuse_noisy(owner: str, *, noisy: bool) -> None:
    """Raises if densities are estimated from random parts of the data."""
    if noisy:
        raise ValueError(
            f"{owner} needs the log density of all data, but the model subsamples a plate: "
            "weights from a mini-batch are those of another posterior. Pass a model that does not."
        )
