"""Side results of a pass (regularisers, diagnostics): a channel beside the two return values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor


class _Collector(NamedTuple):
    """An open block: whose side results it collects, which of them, and what has come."""

    members: frozenset[int]
    names: frozenset[str] | None  # None for every name
    results: dict[str, Tensor]

    def wants(self, token: object, name: str) -> bool:
        return id(token) in self.members and (self.names is None or name in self.names)


_open: ContextVar[tuple[_Collector, ...]] = ContextVar("pyro_nf_auxiliary", default=())


@contextmanager
def collect(
    tokens: Iterable[object], names: Iterable[str] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Opens a collector for what the owners of ``tokens`` record under ``names``; None: all."""
    if isinstance(names, str):
        raise TypeError(f"auxiliary got names={names!r}. Pass a list of names: [{names!r}].")
    members = frozenset(id(token) for token in tokens)
    collector = _Collector(members, None if names is None else frozenset(names), {})
    reset = _open.set((*_open.get(), collector))
    try:
        yield collector.results
    finally:
        _open.reset(reset)


def any_open() -> bool:
    """Whether any collector is open."""
    return bool(_open.get())


def wanted(token: object, name: str) -> bool:
    """Whether an open collector that the token belongs to collects this name."""
    return any(collector.wants(token, name) for collector in _open.get())


def record(token: object, name: str, value: Tensor) -> None:
    """Adds ``value`` under ``name`` in every open collector that wants it."""
    for collector in _open.get():
        if collector.wants(token, name):
            results = collector.results
            results[name] = results[name] + value if name in results else value


class Wishes:
    """What the collectors open at one time want, without what they have collected.

    Args:
        collectors: The collectors.
    """

    def __init__(self, collectors: Iterable[_Collector]) -> None:
        self._collectors = [collector._replace(results={}) for collector in collectors]

    @classmethod
    def of_open_collectors(cls) -> Wishes:
        """The present wishes."""
        return cls(_open.get())

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Lets layers compute for a block what was wanted then, and drops what they record."""
        reset = _open.set(tuple(collector._replace(results={}) for collector in self._collectors))
        try:
            yield
        finally:
            _open.reset(reset)
