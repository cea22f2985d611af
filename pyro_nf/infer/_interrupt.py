"""Ctrl-C held back until what is under way is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupt_after() -> Iterator[None]:
    """Lets a block finish before Ctrl-C raises ``KeyboardInterrupt``; a second one raises at once.

    Only Python's own handler is held back, and only the main thread has one. Anywhere else the
    block runs as if it stood alone.
    """
    own = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not own or threading.current_thread() is not threading.main_thread():
        yield
        return
    received = False

    def hold_back(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if received:
            signal.default_int_handler(number, frame)
        received = True

    signal.signal(signal.SIGINT, hold_back)
    try:
        yield
    except Exception as error:
        # Ctrl-C reaches a loader's worker processes too, and their end may fail the block.
        if received:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if received:
        raise KeyboardInterrupt
