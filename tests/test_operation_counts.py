"""How many operations a step takes: exact, and the same on every machine."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.operations import (
    FLOWS,
    RECORD,
    Operations,
    count,
    count_all,
    differences,
    tasks,
    torch_version,
)

torch.set_num_threads(1)


def test_counts_are_as_recorded():
    """More operations are a regression, and fewer a gain that would be lost again unrecorded."""
    record = json.loads(RECORD.read_text())
    if record["torch"] != torch_version():
        pytest.skip(f"recorded with torch {record['torch']}, this is {torch_version()}")
    now = count_all()
    assert now.keys() == record["counts"].keys()
    changed = differences(now, record["counts"])
    assert not changed, (
        "the number of operations has changed:\n"
        + "\n".join(changed)
        + "\nMore of them slow small batches: mend it. If the change is meant, or a gain, record "
        "it: python -m benchmarks.operations --write"
    )


@pytest.mark.parametrize("task", ["step", "sample"])
@pytest.mark.parametrize("name", FLOWS)
def test_the_host_never_waits(name, task):
    """On the meta device, as on an accelerator, values cannot be looked at."""
    assert task in tasks(name)
    assert not count(name, task, "meta").waits


def test_what_counts():
    x = torch.randn(3, 4)
    with Operations() as operations:
        (x.t() @ x).view(16).exp_().sum()
    assert operations.counts() == {"kernels": 3, "views": 2}
    assert not operations.waits


def test_waits_are_seen():
    x = torch.empty(3, device="meta")
    with Operations() as operations:
        assert x.sum().item() == 0
        bool((x > 0).all())
    assert sum(operations.waits.values()) == 2


def test_every_change_is_named():
    then = {"maf": {"step": {"kernels": 9, "views": 2}, "sample": {"kernels": 5, "views": 1}}}
    assert differences(then, then) == []
    now = {"maf": {"step": {"kernels": 8, "views": 2}, "sample": {"kernels": 5, "views": 3}}}
    assert differences(now, then) == [
        "maf, step: 8 kernels, recorded 9",
        "maf, sample: 3 views, recorded 1",
    ]
    assert differences(now, {}) != []
