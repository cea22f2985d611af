"""The comparison of image flows with other libraries: equal densities before times."""

from __future__ import annotations

import importlib

import pytest
import torch

from benchmarks import images
from benchmarks._peers import images_floor, images_memory, images_ours
from benchmarks._peers.images_architecture import (
    IMAGE_OPERATIONS,
    ImageSpec,
    image_specs,
    quick_image_specs,
)
from benchmarks._peers.libraries import OURS
from benchmarks._peers.parity import difference
from benchmarks._peers.table import markdown

torch.set_num_threads(1)

TINY = ImageSpec((2, 8, 8), 3, 4, 2, 2)


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("library", images.PEERS)
def test_a_peer_with_our_weights_is_the_same_density(library):
    pytest.importorskip(library)
    build = importlib.import_module(f"benchmarks._peers.images_{library}").build
    assert difference(TINY, build) < 1e-9
    model = build(TINY)
    assert model.rsample(2).shape == (2, 2, 8, 8)


@pytest.mark.filterwarnings("ignore")
def test_every_contender_runs_each_operation():
    found = images.contenders(TINY)
    assert next(iter(found)) == OURS
    for one in found.values():
        assert list(one.cells) == list(IMAGE_OPERATIONS)
        for run in one.cells.values():
            run()


def test_the_floor_has_the_weights_of_our_networks():
    networks = [step.network for step in images_ours.steps_of(images_ours.flow(TINY))]
    count = sum(p.numel() for network in networks for p in network.parameters())
    assert images_floor.contender(TINY).parameters == count


def test_our_flow_is_the_named_one_without_learned_priors():
    flow = images_ours.flow(TINY)
    assert len(images_ours.steps_of(flow)) == TINY.levels * TINY.steps
    assert TINY.squeezed == [(8, 4, 4), (16, 2, 2)]
    assert flow().sample((3,)).shape == (3, 2, 8, 8)


@pytest.mark.filterwarnings("ignore")
def test_table():
    rows, failed = images.timed(TINY, 1, compiled=False)
    assert not failed
    lines = markdown(rows).splitlines()
    assert lines[2].startswith("| glow | 2×8×8 | 4 | 3 | train |")
    assert len(lines) == 2 + len(IMAGE_OPERATIONS)
    assert quick_image_specs()[0] in image_specs()


def test_growth_is_a_slope():
    kept = images_memory.Growth({4: 10.0, 8: 18.0, 16: 34.0}, 2.0)
    less = images_memory.Growth({4: 10.0, 8: 10.8, 16: 12.4}, 3.0)
    assert kept.slope == pytest.approx(2)
    table = images_memory.table({"kept": kept, "recomputed": less})
    assert table.splitlines()[-1] == "| recomputed | 10 | 11 | 12 | 0.20 | 0.10 | 1.50 |"


@pytest.mark.parametrize(
    ("activations", "segments"), [*zip(images_memory.ACTIVATIONS, (0, 3, 2), strict=True)]
)
def test_choices_of_activations(activations, segments):
    levels = images_memory.make(2, activations).transform.levels
    assert [level.recompute_segments for level in levels] == [segments] * 3
