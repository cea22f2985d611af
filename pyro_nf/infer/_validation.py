"""Validation switched off for a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
from torch.distributions import Distribution


@contextmanager
def without_validation() -> Iterator[None]:
    """Turns validation off for a block, then gives Pyro's flags and torch's their values back."""
    # Pyro restores its own flags, but sets torch's default to that of pyro.distributions.
    torch_default = Distribution._validate_args
    try:
        with pyro.validation_enabled(False):  # noqa: FBT003  (Pyro's signature)
            yield
    finally:
        Distribution.set_default_validate_args(torch_default)
