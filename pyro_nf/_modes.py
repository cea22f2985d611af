"""Training and evaluation modes that are given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import nn


@contextmanager
def in_mode(module: nn.Module, mode: Literal["train", "eval"]) -> Iterator[None]:
    """Puts a module into a mode for a block, then gives every part the mode it had."""
    before = [(part, part.training) for part in module.modules()]
    module.train(mode == "train")
    try:
        yield
    finally:
        for part, training in before:
            part.training = training
