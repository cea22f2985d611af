"""Runs Pyro's own tests of its transforms with ``pyro_nf.transforms`` in their place.

    python -m benchmarks.pyro_suite PATH/TO/tests/distributions/test_transforms.py [pytest options]

The file is Pyro's, unchanged but for the import of the namespace under test. It runs in float64,
as Pyro's own suite does, with every test's seed set as Pyro's marker says.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

THEIRS = "import pyro.distributions.transforms as T"
OURS = "import pyro_nf.transforms as T"

CONFTEST = """
import pyro
import pytest
import torch

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)


def pytest_configure(config):
    config.addinivalue_line("markers", "init(rng_seed): seeds a test")


def pytest_runtest_setup(item):
    marker = item.get_closest_marker("init")
    pyro.clear_param_store()
    pyro.set_rng_seed(marker.kwargs["rng_seed"] if marker else 0)
"""

COMMON = """
import torch


def assert_close(actual, expected, atol=1e-7, rtol=1e-5, msg=""):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol)
"""


def main() -> int:
    """Runs the file given on the command line and returns pytest's exit status."""
    path, options = Path(sys.argv[1]), sys.argv[2:]
    source = path.read_text()
    if source.count(THEIRS) != 1:
        raise SystemExit(f"{path} does not import Pyro's transforms as its tests do.")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "tests").mkdir()
        (root / "tests" / "__init__.py").touch()
        (root / "tests" / "common.py").write_text(COMMON)
        (root / "conftest.py").write_text(CONFTEST)
        (root / "tests" / "test_transforms.py").write_text(source.replace(THEIRS, OURS))
        here = str(Path(__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), here])}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
        return subprocess.run(command, cwd=root, env=environment, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
