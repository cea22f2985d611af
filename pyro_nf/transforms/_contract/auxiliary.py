"""Side results of a pass (regularisers, diagnostics): a channel beside the two return values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_open: ContextVar[tuple[tuple[frozenset[int], dict[str, Tensor]], ...]] = ContextVar(
    "pyro_nf_auxiliary", default=()
)


@contextmanager
def collect(tokens: Iterable[object]) -> Iterator[dict[str, Tensor]]:
    """Opens a collector for what the owners of ``tokens`` record."""
    results: dict[str, Tensor] = {}
    members = frozenset(id(token) for token in tokens)
    reset = _open.set((*_open.get(), (members, results)))
    try:
        yield results
    finally:
        _open.reset(reset)


def record(token: object, name: str, value: Tensor) -> None:
    """Adds ``value`` under ``name`` in every open collector that the token belongs to."""
    for members, results in _open.get():
        if id(token) in members:
            results[name] = results[name] + value if name in results else value
