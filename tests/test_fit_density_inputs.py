"""What a fit of a density reads, and what it refuses before training."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from gaussian_flow import GaussianFlow, gaussian_rows, weights
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pyro_nf import flows
from pyro_nf.distributions import DiagonalNormal
from pyro_nf.infer import fit_density
from pyro_nf.infer._data import _split_loader
from pyro_nf.transforms import ActNorm

torch.set_num_threads(1)


@pytest.fixture
def x():
    return gaussian_rows()


# DataLoaders


def test_loader_is_split_and_read(x):
    context = x[:, :1]
    loader = DataLoader(TensorDataset(x, context), batch_size=50, shuffle=True)
    flow = GaussianFlow(context_dim=1)
    result = fit_density(flow, loader, max_steps=200, learning_rate=1e-2)
    assert result.validation_losses[-1][1] < result.validation_losses[0][1]
    plain = DataLoader(x, batch_size=50)
    held_out = DataLoader(x[:80], batch_size=33)
    result = fit_density(flow := GaussianFlow(), plain, validation=held_out, max_steps=5)
    assert -flow().log_prob(x[:80]).mean().item() == pytest.approx(result.best_loss)


def test_loader_that_cannot_be_split_is_refused(x):
    sampler = torch.utils.data.WeightedRandomSampler(torch.ones(len(x)), 100)
    loader = DataLoader(TensorDataset(x), batch_size=20, sampler=sampler)
    with pytest.raises(ValueError, match="cannot hold validation=0.1 .* Pass validation=held-out"):
        fit_density(GaussianFlow(), loader)
    assert fit_density(GaussianFlow(), loader, validation=None, max_steps=7).steps == 7


# What is refused before training


BAD_INPUT = {
    "last dimension": (
        {"data": torch.randn(9, 3)},
        r"shape \(9, 3\); the flow expects \(rows, 2\)",
    ),
    "one dimension": ({"data": torch.randn(9)}, r"shape \(9,\); the flow expects \(rows, 2\)"),
    "integers": ({"data": torch.ones(9, 2, dtype=torch.long)}, "data of dtype int64"),
    "integer array": ({"data": np.ones((9, 2), dtype=np.uint8)}, "dtype uint8.*Dequantized"),
    "booleans": ({"data": np.ones((9, 2), dtype=bool)}, "data of dtype bool"),
    "complex": ({"data": torch.ones(9, 2, dtype=torch.cfloat)}, "data of dtype complex64"),
    "empty": ({"data": torch.ones(0, 2)}, "data without rows"),
    "one row": ({"data": torch.ones(1, 2), "validation": 0}, "got 1 row. Pass at least two"),
    "one row left": ({"data": torch.ones(2, 2)}, "2 rows, of which 1 is held out for validation"),
    "superfluous context": ({"context": torch.ones(9, 3)}, "built without one.*context_dim=3"),
    "large batch": ({"batch_size": 10}, "batch_size=10 and 8 rows to train on.*at most 8"),
    "fraction": ({"validation": 1.5}, r"validation=1.5. Pass a fraction in \[0, 1\)"),
    "negative fraction": ({"validation": -0.1}, "validation=-0.1"),
    "held-out shape": ({"validation": torch.ones(3, 5)}, r"validation of shape \(3, 5\)"),
    "held-out context": ({"validation": (torch.ones(3, 2),) * 2}, "the context of validation"),
    "held-out parts": ({"validation": (torch.ones(3, 2),) * 3}, "3 parts in validation"),
    "no steps": ({"max_steps": 0}, "max_steps=0. Pass a positive integer"),
    "no rate": ({"learning_rate": -1.0}, "learning_rate=-1.0"),
    "schedule": ({"schedule": "linear"}, "schedule='linear'. Pass one of 'cosine', 'constant'"),
    "patience": ({"patience": 0}, "patience=0"),
    "side result": (
        {"aux_weights": {"kinetic": 1.0}},
        "'kinetic'; the flow's layers record 'size'",
    ),
    "weight": ({"aux_weights": {"size": math.inf}}, r"aux_weights\['size'\]=inf"),
    "resume": ({"resume": True}, "resume=True without a checkpoint"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_refuses(case):
    options, message = BAD_INPUT[case]
    data = options.get("data", torch.randn(9, 2))
    rest = {name: value for name, value in options.items() if name != "data"}
    flow = GaussianFlow()
    before = weights(flow)["mean.weight"]
    with pytest.raises(ValueError, match=message):
        fit_density(flow, data, **rest)
    assert torch.equal(flow.mean.weight, before)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_names_the_first_value_that_is_not_finite(value):
    data, context = torch.randn(9, 2), torch.randn(9, 3)
    data[4, 1] = data[7, 0] = value
    with pytest.raises(ValueError, match=f"row 4, column 1 is {value} .2 such rows"):
        fit_density(GaussianFlow(), data)
    context[2, 2] = value
    with pytest.raises(ValueError, match="context with a value .* row 2, column 2"):
        fit_density(GaussianFlow(context_dim=3), torch.randn(9, 2), context=context)


def test_too_large_for_the_flows_dtype():
    data = np.ones((9, 2))
    data[0, 0] = 1e300
    with pytest.raises(ValueError, match="not finite as torch.float32: row 0, column 0"):
        fit_density(GaussianFlow(), data)


def test_refuses_wrong_contexts():
    flow = GaussianFlow(context_dim=3)
    with pytest.raises(ValueError, match=r"no context .* Pass one of shape \(9, 3\)"):
        fit_density(flow, torch.randn(9, 2))
    with pytest.raises(ValueError, match="9 rows of data and 8 rows of context"):
        fit_density(flow, torch.randn(9, 2), context=torch.randn(8, 3))
    with pytest.raises(ValueError, match=r"context of shape \(9, 2\)"):
        fit_density(flow, torch.randn(9, 2), context=torch.randn(9, 2))


@pytest.mark.parametrize(
    "options", [{"data": "rows"}, {"validation": True}, {"max_steps": 1.5}, {"clip_norm": "no"}]
)
def test_refuses_types(options):
    arguments = {"data": torch.randn(9, 2), **options}
    with pytest.raises(TypeError):
        fit_density(GaussianFlow(), **arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: flows.maf(2)(), r"a distribution .FlowDistribution.*fit_density\(flow, data\)"),
        (lambda: dist.Normal(torch.zeros(2), 1.0), "a distribution .Normal"),
        (lambda: ActNorm(2), r"a layer .ActNorm., which is no density.*DiagonalNormal"),
        (lambda: dist.transforms.ExpTransform(), "a layer .ExpTransform"),
        (lambda: DiagonalNormal(2), "a flow of type DiagonalNormal. Pass flows.nsf"),
        (lambda: nn.Linear(2, 2), "a flow of type Linear"),
        (lambda: flows.maf, "a flow of type function"),
        (lambda: None, "a flow of type NoneType"),
    ],
)
def test_refuses_what_is_no_flow(x, make, message):
    with pytest.raises(TypeError, match=message):
        fit_density(make(), x)


def test_refuses_options_beside_a_loader(x):
    loader = DataLoader(x, batch_size=10)
    with pytest.raises(ValueError, match="batch_size beside a DataLoader"):
        fit_density(GaussianFlow(), loader, batch_size=5)
    with pytest.raises(ValueError, match="context beside a DataLoader"):
        fit_density(GaussianFlow(context_dim=1), loader, context=x[:, :1])

    class Empty(Dataset):
        def __len__(self):
            return 0

    with pytest.raises(ValueError, match="DataLoader without batches"):
        fit_density(GaussianFlow(), DataLoader(Empty(), batch_size=5), validation=None)


def test_refuses_what_it_could_not_fit(x):
    with pytest.raises(ValueError, match="without trainable parameters"):
        fit_density(GaussianFlow().requires_grad_(requires_grad=False), x)

    class Sampled(GaussianFlow, PyroModule):
        def __init__(self):
            super().__init__()
            self.location = PyroSample(dist.Normal(torch.zeros(2), 1.0).to_event(1))

        def forward(self, context=None):
            return dist.Normal(self.location, self.log_scale.exp()).to_event(1)

    with pytest.raises(ValueError, match="weights are sampled .location"):
        fit_density(Sampled(), x)

    class Stray(GaussianFlow):
        def forward(self, context=None):
            return dist.Normal(pyro.param("loc", torch.zeros(2)), 1.0).to_event(1)

    with pytest.raises(ValueError, match="met a pyro.param that is no parameter of the flow"):
        fit_density(Stray(), x)


# Settings of the caller


def test_default_device_may_be_another(x, tmp_path):
    flow, trained = GaussianFlow(), flows.nsf(2, transforms=1, hidden_dims=(4,))
    loader = DataLoader(x, batch_size=50)
    torch.set_default_device("meta")
    try:
        options = {"batch_size": 50, "checkpoint": tmp_path / "fit.pt"}
        assert fit_density(flow, x, max_steps=12, **options).steps == 12
        assert fit_density(flow, x, max_steps=20, resume=True, **options).steps == 20
        assert fit_density(trained, x, max_steps=2).steps == 2
        generator = torch.Generator("cpu")
        rows = [len(part.dataset) for part in _split_loader(loader, 0.1, generator)]
    finally:
        torch.set_default_device(None)
    assert rows == [360, 40]
    assert torch.isfinite(flow().log_prob(x)).all()


@pytest.mark.parametrize("flags", [(True, False), (False, True), (True, True), (False, False)])
@pytest.mark.parametrize("outcome", ["returns", "raises"])
def test_validation_flags_are_left_as_they_were(x, flags, outcome):
    def state():
        modules = (pyro.distributions, pyro.infer, pyro.poutine)
        torch_default = torch.distributions.Distribution._validate_args
        return [torch_default, *(module.is_validation_enabled() for module in modules)]

    def fail(step, losses):
        if outcome == "raises":
            raise RuntimeError("disk full")

    before = state()
    try:
        pyro.enable_validation(flags[1])
        pyro.infer.enable_validation(not flags[1])
        torch.distributions.Distribution.set_default_validate_args(flags[0])
        expected = state()
        with pytest.raises(RuntimeError) if outcome == "raises" else nullcontext():
            fit_density(GaussianFlow(), x, max_steps=2, callback=fail)
        assert state() == expected
    finally:
        pyro.enable_validation(before[1])
        torch.distributions.Distribution.set_default_validate_args(before[0])
