"""The comparison with other libraries: equal architectures, honest ratios, parity before time."""

from __future__ import annotations

import importlib
import itertools
import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.distributions import Distribution

from benchmarks import peers
from benchmarks._peers import floor, libraries, ours
from benchmarks._peers.architecture import (
    FAMILIES,
    Spec,
    all_specs,
    main_specs,
    quick_specs,
)
from benchmarks._peers.contender import NOT_SHARED, Contender
from benchmarks._peers.operations import torch_cells
from benchmarks._peers.parity import difference, verdict
from benchmarks._peers.picture import draw
from benchmarks._peers.table import OURS, Row, markdown, notes
from benchmarks._peers.timing import Clock, measure
from benchmarks._peers.weights import randomize

torch.set_num_threads(1)

OWN = [family for family in FAMILIES if family != "cnf"]
WIRED = [family for family in OWN if family not in ("bnaf", "planar")]


def test_ratio_is_over_the_fastest_torch_peer():
    one = Row(
        Spec("maf", 6, 128),
        "train",
        {
            OURS: 2.0,
            "pyro_nf, compiled": 0.5,
            "pyro": 8.0,
            "zuko": 4.0,
            "flowjax": 1.0,
            "floor": 0.1,
        },
    )
    assert one.best_peer == "zuko"
    assert one.ratio() == 0.5
    assert one.ratio("flowjax") == 0.25
    assert one.ratio("nflows") is None


def test_without_a_peer_there_is_no_ratio():
    one = Row(Spec("planar", 6, 128), "vi", {OURS: 2.0, "flowjax": 1.0})
    assert one.best_peer is None
    assert one.ratio() is None


def test_table_has_a_column_for_each_library_and_dashes_where_it_lacks_a_flow():
    rows = [
        Row(Spec("maf", 6, 128), "train", {OURS: 1.234, "zuko": 2.5, "floor": 0.5}, {OURS: 26940}),
        Row(Spec("planar", 6, 128), "vi", {OURS: 1.0, "pyro": 123.4}, {OURS: 104}),
    ]
    head, rule, first, second = markdown(rows).splitlines()
    assert head == (
        "| family | D | H | B | operation | parameters | pyro_nf, ms | ratio | best torch peer "
        "| zuko, ms | pyro, ms | floor, ms |"
    )
    assert rule.count("---") == head.count("|") - 1
    assert first == "| maf | 6 | 64 | 128 | train | 26940 | 1.23 | 0.49 | zuko | 2.5 | — | 0.5 |"
    assert second == "| planar | 6 | — | 128 | vi | 104 | 1 | 0.01 | pyro | — | 123 | — |"


def test_notes_tell_what_is_not_alike():
    one = Row(
        Spec("naf", 6, 128),
        "train",
        {},
        {OURS: 100, "pyro": 100, "zuko": 90},
        {"pyro": "parity: max difference 1.0e-09", "zuko": NOT_SHARED},
    )
    assert notes([one, one]) == [
        f"naf D=6, zuko: {NOT_SHARED}.",
        "naf D=6, zuko: 90 parameters, pyro_nf 100.",
    ]


def test_calls_take_turns_and_the_median_of_one_is_returned():
    seconds = itertools.accumulate(
        itertools.repeat(1.0)
    )  # every look at the clock, a second later
    calls = []
    cells = {name: (nullcontext, lambda n=name: calls.append(n)) for name in "ab"}
    clock = Clock(lambda: next(seconds), lambda: None, "fake")
    ms = measure(cells, repeats=3, budget=1e9, clock=clock)
    assert ms == {"a": 1000.0, "b": 1000.0}
    assert calls == ["a", "b"] * 6  # two for what happens once, a warm-up, three repeats


def test_a_slow_call_is_still_measured_twice():
    seconds = itertools.accumulate(itertools.repeat(100.0))
    calls = []
    clock = Clock(lambda: next(seconds), lambda: None, "fake")
    measure({0: (nullcontext, lambda: calls.append(0))}, repeats=50, budget=1.0, clock=clock)
    assert len(calls) == 5


@pytest.mark.parametrize("family", OWN)
def test_our_flow_runs_each_operation(family):
    spec = Spec(family, 3, 4)
    model = ours.model(spec)
    randomize(model.module, 0)
    cells = torch_cells(model, spec)
    assert list(cells) == list(spec.kind.operations)
    for run in cells.values():
        run()


@pytest.mark.parametrize("family", WIRED)
@pytest.mark.parametrize("dim", [2, 5, 6])
def test_the_floor_has_as_many_weights_as_our_conditioners(family, dim):
    spec = Spec(family, dim, 4)
    count = sum(p.numel() for p in floor.networks(spec).parameters())
    assert count == ours.model(spec).parameters


@pytest.mark.parametrize("family", WIRED)
def test_the_floor_runs_each_operation(family):
    found = floor.contenders(Spec(family, 3, 4))
    for one in found.values():
        assert list(one.cells) == list(FAMILIES[family].operations)
        for run in one.cells.values():
            run()


def test_block_and_planar_flows_have_no_floor():
    assert floor.contenders(Spec("bnaf", 3, 4)) == floor.contenders(Spec("planar", 3, 4)) == {}


def test_large_flows_are_shallower():
    assert Spec("maf", 64, 128).hidden_dims == (256, 256)
    assert Spec("maf", 64, 128).transforms == 5
    assert Spec("maf", 784, 128).hidden_dims == (1024,)
    assert Spec("maf", 784, 128).transforms == 3
    assert replace(Spec("maf", 6, 128), layers=2).transforms == 2


def test_lists_of_architectures():
    assert {spec.family for spec in quick_specs()} == set(FAMILIES)
    assert set(main_specs()) <= set(all_specs())
    assert Spec("maf_inverse", 784, 128) not in all_specs()


def test_parity_compares_with_the_reference():
    def build(spec, log_scale=0.0):
        model = ours.model(spec)
        model.reference = lambda: ours.flow(spec)

        def adopt(flow):
            model.module.load_state_dict(flow.state_dict())
            model.log_prob = lambda x: model.module().log_prob(x) + log_scale

        model.adopt = adopt
        return model

    spec = Spec("maf", 3, 4)
    assert difference(spec, build) == 0
    assert difference(spec, lambda s: build(s, 0.5)) == pytest.approx(0.5)
    assert torch.get_default_dtype() == torch.float32


def test_verdicts():
    assert verdict(1e-9) == ("parity: max difference 1.0e-09", False)
    assert verdict(0.5) == ("parity FAILED: max difference 5.0e-01", True)
    assert verdict(float("nan"))[1]
    assert verdict(None) == (NOT_SHARED, False)


def test_command_line_chooses_architectures():
    chosen = peers.chosen_specs(peers.parse(["--families", "maf", "iaf", "--sizes", "6:128"]))
    assert chosen == [Spec("maf", 6, 128), Spec("iaf", 6, 128)]
    chosen = peers.chosen_specs(peers.parse(["--quick", "--operations", "inverse_grad"]))
    assert [spec.family for spec in chosen] == ["maf_inverse"]


def test_a_failed_parity_is_not_timed_and_reported(monkeypatch):
    bad = Contender(1, {"train": lambda: pytest.fail("timed")}, "parity FAILED", failed=True)
    good = Contender(1, {"train": lambda: None})
    monkeypatch.setattr(libraries, "contenders", lambda *_, **__: {OURS: good, "zuko": bad})
    options = peers.parse(["--operations", "train", "--repeats", "2"])
    rows, failed = peers.timed(Spec("maf", 2, 4), options)
    assert failed
    assert list(rows[0].ms) == [OURS]
    assert notes(rows) == ["maf D=2, zuko: parity FAILED."]


def test_results_table_and_picture_are_written(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [Row(Spec("maf", 6, 128), "train", {OURS: 1.0, "zuko": 2.0, "floor": 0.5})]
    peers.save(tmp_path, rows, {"pyro_nf": 24.0}, "machine")
    assert json.loads((tmp_path / "results.json").read_text())["rows"][0]["ms"]["zuko"] == 2.0
    assert "| pyro_nf | 24 |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_no_picture_without_peers(tmp_path):
    pytest.importorskip("matplotlib")
    draw([Row(Spec("maf", 6, 128), "train", {OURS: 1.0})], tmp_path / "none.png", "")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("library", libraries.TORCH_PEERS)
@pytest.mark.parametrize("family", OWN)
def test_a_peer_with_our_weights_is_the_same_density(library, family):
    pytest.importorskip(library)
    build = importlib.import_module(f"benchmarks._peers.{library}").build
    for dim in (3, 6):
        spec = Spec(family, dim, 4)
        model = build(spec)
        if model is None or model.reference is None:
            pytest.skip(f"{library} has no such flow")
        assert difference(spec, build) < 1e-5
        if family != "bnaf":  # ours keeps two kinds of weights apart, Pyro in one matrix
            assert model.parameters == ours.model(spec).parameters


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["maf", "nsf_coupling"])
def test_flowjax_with_our_weights_is_the_same_density(family):
    pytest.importorskip("flowjax")
    from benchmarks._peers import flowjax

    assert flowjax.difference(Spec(family, 3, 4, layers=1)) < 1e-5


def test_zuko_leaves_validation_as_it_was():
    pytest.importorskip("zuko")
    from benchmarks._peers.zuko import without_validation

    assert Distribution._validate_args
    with without_validation():
        assert not Distribution._validate_args
    assert Distribution._validate_args
