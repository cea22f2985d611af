"""Bad input to flows of integers, refused before a network runs."""

from __future__ import annotations

import math

import pytest
import torch
from integer_flows import LEVELS, UNIT, images, integers, vectors
from torch import nn
from torch.distributions import constraints

from pyro_nf.bijections import Affine
from pyro_nf.distributions import (
    Dequantized,
    DequantizedDistribution,
    Flow,
    GaussianMixture,
)
from pyro_nf.transforms import Coupling

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (torch.zeros(5, 2), TypeError, r"dtype torch.float32.*Pass integers 0\.\.16: x.long\(\)"),
        (torch.zeros(5, 2, dtype=torch.bool), TypeError, "dtype torch.bool"),
        (torch.zeros(5, 2, dtype=torch.cfloat), TypeError, "dtype torch.complex64"),
        ([[0, 1]], TypeError, "x of type list"),
        (
            torch.tensor([[0, 1], [3, 17], [20, 2]]),
            ValueError,
            r"x with 17 at \[1, 1\] \(2 such values\), outside of the levels 0..16.*levels=21",
        ),
        (torch.tensor([0, -1]), ValueError, r"x with -1 at \[1\] .*count from 0"),
        (
            torch.zeros(5, 3, dtype=torch.int64),
            ValueError,
            r"event shape \(2,\) got a value of shape \(5, 3\)",
        ),
        (torch.tensor(3), ValueError, r"got a value of shape \(\)"),
    ],
)
def test_refuses_values(x, kind, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = Dequantized(vectors(), 17, dequantizer=vectors(context_dim=2))
    monkeypatch.delattr(Coupling, "forward_and_ladj")  # no network runs
    monkeypatch.delattr(Coupling, "inverse_and_ladj")
    for score in (
        module().log_prob,
        module().estimate_log_prob,
        module.bits_per_dim,
    ):
        with pytest.raises(kind, match=message):
            score(x)


def test_refuses_to_initialize_from_other_data() -> None:
    module = Dequantized(vectors(), 17)
    with pytest.raises(TypeError, match="initialize got x of dtype torch.float32"):
        module.initialize(torch.zeros(5, 2))
    with pytest.raises(ValueError, match="initialize got x with 17"):
        module.initialize(torch.full((5, 2), 17))


def test_batches_that_do_not_broadcast() -> None:
    d = Dequantized(images(3), 17)(torch.zeros(5, 3))
    with pytest.raises(
        ValueError, match=r"batch shape \(5,\) got a value with batch shape \(4,\)"
    ):
        d.log_prob(integers(4, 1, 2, 3))
    with pytest.raises(ValueError, match="context_dim=3 and got no context"):
        Dequantized(images(3), 17)()


def test_values_are_not_read_without_validation() -> None:
    d = DequantizedDistribution(
        module := Dequantized(vectors(), 17), module.flow(), validate_args=False
    )
    assert d.log_prob(torch.tensor([17, 0])).shape == ()


def test_rsample_and_non_finite_draws() -> None:
    module = Dequantized(vectors(), 17)
    with pytest.raises(NotImplementedError, match="integers have no gradient"):
        module().rsample()
    with torch.no_grad():
        next(module.parameters()).fill_(math.nan)
    with pytest.raises(ValueError, match="drew numbers that are not finite"):
        module().sample()


CONSTRUCTIONS = {
    "levels": (lambda: Dequantized(vectors(), 1), ValueError, "levels=1. Pass 2 or more"),
    "no integer": (lambda: Dequantized(vectors(), 2.5), TypeError, "levels=2.5"),
    "draws": (lambda: Dequantized(vectors(), 4, draws=0), ValueError, "draws=0"),
    "flow": (lambda: Dequantized(nn.Linear(2, 2)), TypeError, "a flow of type Linear"),
    "distribution": (lambda: Dequantized(vectors()()), TypeError, "type FlowDistribution"),
    "support": (
        lambda: Dequantized(vectors(support=constraints.interval(0.0, 0.5))),
        ValueError,
        "does not hold the unit interval.*Logit",
    ),
    "simplex": (
        lambda: Dequantized(vectors(support=constraints.simplex)),
        ValueError,
        "does not hold the unit interval",
    ),
    "string": (
        lambda: Dequantized(vectors(), dequantizer="normal"),
        ValueError,
        "dequantizer='normal'. Pass 'uniform', or a flow",
    ),
    "no flow": (
        lambda: Dequantized(vectors(), dequantizer=nn.Linear(2, 2)),
        TypeError,
        "a dequantizer of type Linear",
    ),
    "event": (
        lambda: Dequantized(vectors(), dequantizer=vectors(3, context_dim=3)),
        ValueError,
        r"event shape \(2,\) and a dequantizer of event shape \(3,\)",
    ),
    "context": (
        lambda: Dequantized(vectors(), dequantizer=vectors(context_dim=3)),
        ValueError,
        "context_dim=3; its context is the datum, flattened. Build it with context_dim=2.",
    ),
    "no context": (
        lambda: Dequantized(vectors(context_dim=3), dequantizer=vectors()),
        ValueError,
        "context_dim=2, or context_dim=5 to read the flow's context, too",
    ),
    "noise support": (
        lambda: Dequantized(vectors(), dequantizer=vectors(context_dim=2, support=None)),
        ValueError,
        "support=constraints.unit_interval",
    ),
    "noise margin": (
        lambda: Dequantized(images(), dequantizer=images(context_dim=6)),
        ValueError,
        r"support .*Interval.*Logit\(alpha=0.0\)",
    ),
    "noise without gradient": (
        lambda: Dequantized(
            vectors(),
            dequantizer=Flow(
                GaussianMixture(2),
                Coupling(Affine(), 2, context_dim=2, hidden_dims=(4,)),
                support=UNIT,
            ),
        ),
        ValueError,
        "GaussianMixture base, whose draws have no gradient",
    ),
}


@pytest.mark.parametrize("case", CONSTRUCTIONS)
def test_refuses_to_be_built(case: str) -> None:
    make, kind, message = CONSTRUCTIONS[case]
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize(
    "support",
    [None, UNIT, constraints.interval(-1, 2), constraints.positive, constraints.less_than(1.0)],
    ids=str,
)
def test_supports_that_hold_the_unit_interval(support) -> None:
    flow = vectors(support=support)
    d = Dequantized(flow, LEVELS)()
    ends = torch.tensor([[0, 0], [3, 3]])
    assert d.log_prob(ends, draws=1000).isfinite().all()
