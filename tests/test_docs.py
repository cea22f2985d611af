"""The code in README and docs runs, and importing the package changes nothing."""

from __future__ import annotations

import doctest
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_nf import infer

ROOT = Path(__file__).parents[1]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_readme_code_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(infer, "fit_density", functools.partial(infer.fit_density, max_steps=5))
    monkeypatch.setattr(infer, "fit_guide", functools.partial(infer.fit_guide, num_steps=20))
    monkeypatch.setattr(infer, "report", functools.partial(infer.report, detector=False))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) >= 3
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "moons.png").exists()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_code_of_the_guides_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infer, "fit_guide", functools.partial(infer.fit_guide, num_steps=20))
    monkeypatch.setattr(infer, "report", functools.partial(infer.report, detector=False))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/guides.md").read_text(), re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(
            compile(block.replace("num_samples=500", "num_samples=2"), "guides.md", "exec"), names
        )
    assert names["samples"]["theta"].shape == (2, 8)


def test_code_of_the_images_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infer, "fit_density", functools.partial(infer.fit_density, max_steps=3))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/images.md").read_text(), re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "images.md", "exec"), names)
    assert names["y"].shape == (5, 3, 32, 32)


@pytest.mark.parametrize("name", ["from_pyro.md", "shapes.md"])
def test_docs_examples_are_true(name: str) -> None:
    path = ROOT / "docs" / name
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testfile(str(path), module_relative=False, optionflags=flags)
    assert result.attempted >= 5
    assert result.failed == 0


def test_import_has_no_side_effects() -> None:
    script = (
        "import torch, pyro.distributions, random\n"
        "state, flag = torch.get_rng_state(), torch.distributions.Distribution._validate_args\n"
        "default = torch.get_default_dtype()\n"
        "from pyro_nf import bijections, distributions, flows, infer, nn, transforms\n"
        "import sys\n"
        "assert torch.equal(state, torch.get_rng_state())\n"
        "assert torch.distributions.Distribution._validate_args == flag\n"
        "assert torch.get_default_dtype() == default\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from torch.optim.optimizer import _global_optimizer_post_hooks\n"
        "assert not _global_optimizer_post_hooks\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
