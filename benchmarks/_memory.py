"""How much memory something adds to this process at most."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path


def added_mib(run: Callable[[], object]) -> float:
    """Peak of the resident memory that ``run`` adds, in MiB (Linux).

    Run it in a process of its own, where no freed memory lies ready to be taken again, after what
    is loaded and kept once has been.
    """
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    run()
    return (resident("VmHWM") - before) / 1024


def resident(key: str) -> int:
    """KiB of this process, now ("VmRSS") or at most since the peak was reset ("VmHWM")."""
    # Not ru_maxrss: that of a process begins at what its parent held.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))
