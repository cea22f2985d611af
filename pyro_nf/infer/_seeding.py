"""Draws from torch's global generators that leave them as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyro_nf.infer.checkpoint import random_state, set_random_state


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's generators for a block, then gives them back their states.

    Guides and models draw from the global generators, which take no generator of ours.
    """
    before = random_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        set_random_state(before)
