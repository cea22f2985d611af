"""Events of any rank, of which Pyro's layers name one dimension counted from the end."""

from __future__ import annotations

from collections.abc import Sequence

from pyro_nf._checks import positive_int


def negative_dim(owner: str, dim: int) -> int:
    """Returns ``dim`` if it is an integer below 0, else raises."""
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"{owner} got dim={dim!r}. Pass a negative integer such as -1.")
    if dim >= 0:
        raise ValueError(
            f"{owner} got dim={dim}. Pass a negative dim: the event has -dim dimensions."
        )
    return dim


def event_sizes(owner: str, input_dim: int | Sequence[int], dim: int) -> tuple[int, ...]:
    """Returns the sizes of an event of ``-dim`` dimensions, or raises."""
    rank = -negative_dim(owner, dim)
    event = (input_dim,) if isinstance(input_dim, int) else tuple(input_dim)
    if len(event) != rank:
        raise ValueError(
            f"{owner} got input_dim={input_dim} for dim={dim}. Pass the event's sizes, as many "
            f"as {rank}."
        )
    for size in event:
        positive_int(owner, "input_dim", size)
    return event
