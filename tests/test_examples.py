"""The examples run from end to end in their quick form, and draw what they promise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

PROMISED = {
    "continuous.py": (
        [
            "continuous_likelihood.png",
            "continuous_likelihood_kinetic.png",
            "continuous_flow_matching.png",
        ],
        ["flow matching", "evaluations"],
    ),
    "neural_ode.py": (["neural_ode.png"], ["outputs: network and layer"]),
    "eight_schools.py": (
        ["eight_schools.png", "eight_schools_report.png"],
        ["AutoIAFNormal", "AutoFlow", "NUTS", "ReportCard"],
    ),
    "vae.py": (["vae_samples.png", "vae_reconstructions.png"], ["IAF", "Sylvester", "Real NVP"]),
    "images.py": (
        [
            "images_samples.png",
            "images_levels.png",
            "images_interpolations.png",
            "images_classes.png",
        ],
        ["Glow, splines", "Flow++, variational noise", "Gaussian"],
    ),
    "density.py": (["moons.png", "pairs.png", "losses.png"], ["Gaussian mixture", "NSF"]),
    "conditional_density.py": (["conditional_density.png"], ["neural spline flow"]),
}


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("[!_]*.py")} == set(PROMISED)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROMISED)
def test_example_runs(name, tmp_path):
    pictures, words = PROMISED[name]
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name, "--quick", "--out", tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLES.parent)},
    )
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in words)
    for picture in pictures:
        pixels = matplotlib.image.imread(tmp_path / picture)[..., :3]
        assert pixels.shape[0] > 300
        assert pixels.std() > 0.05  # something is drawn
