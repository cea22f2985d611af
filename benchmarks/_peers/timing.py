"""Interleaved timing in one process."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from benchmarks._peers.contender import Setting

Key = TypeVar("Key", bound=Hashable)

_LEAST_SECONDS = 0.01  # a measurement repeats a faster call until it takes as long


@dataclass(frozen=True)
class Clock:
    """How time is read.

    Attributes:
        now: Seconds.
        settle: Waits until what was started is done.
        name: What is read, in words.
    """

    now: Callable[[], float]
    settle: Callable[[], None]
    name: str


def clock_of(device: str) -> Clock:
    """Creates the clock of a device: CPU time, which other processes do not stretch, or wall."""
    if device == "cuda":
        return Clock(time.perf_counter, torch.cuda.synchronize, "wall time")
    return Clock(time.process_time, lambda: None, "CPU time")


def measure(
    cells: Mapping[Key, tuple[Setting, Callable[[], object]]],
    *,
    repeats: int,
    budget: float,
    clock: Clock,
) -> dict[Key, float]:
    """Times calls in turns.

    Args:
        cells: The calls, each with the context in which it runs.
        repeats: Measurements of each, fewer where the budget is spent.
        budget: Seconds for all; each cell gets three measurements in any case, of which the first
            is left out as a warm-up.
        clock: How time is read.

    Returns:
        Median milliseconds of a call.
    """
    for cell in cells.values():
        _timed(cell, 1, clock)  # what is compiled or allocated once
    once = {key: _timed(cell, 1, clock) for key, cell in cells.items()}
    counts = {key: max(1, min(200, int(_LEAST_SECONDS / max(s, 1e-6)))) for key, s in once.items()}
    each = sum(counts[key] * seconds for key, seconds in once.items())
    rounds = max(2, min(repeats, int(budget / max(each, 1e-6))))
    seconds: dict[Key, list[float]] = {key: [] for key in cells}
    gc.collect()
    gc.freeze()  # else every collection walks through what other libraries have imported
    for _ in range(rounds + 1):
        for key, cell in cells.items():
            seconds[key].append(_timed(cell, counts[key], clock))
    gc.unfreeze()
    return {key: statistics.median(values[1:]) * 1e3 for key, values in seconds.items()}


def _timed(cell: tuple[Setting, Callable[[], object]], count: int, clock: Clock) -> float:
    setting, run = cell
    with setting():
        clock.settle()
        start = clock.now()
        for _ in range(count):
            run()
        clock.settle()
        return (clock.now() - start) / count
