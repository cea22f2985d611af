"""Fixtures shared by the tests and the doctests."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("MPLBACKEND", "Agg")

import pyro
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fresh_state():
    """Starts every test from one seed, an empty parameter store and torch's defaults."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    pyro.enable_validation(True)  # noqa: FBT003  (a test before may have left it off)
    yield
    torch.set_default_dtype(torch.float32)
    pyro.clear_param_store()
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
