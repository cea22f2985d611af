"""The fit of a density: what it learns, keeps, refuses, and continues."""

from __future__ import annotations

import math
from contextlib import contextmanager

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam, PyroSample
from pyro.nn.module import to_pyro_module_
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pyro_nf import flows
from pyro_nf.infer import fit_density
from pyro_nf.infer._elbo import DensityELBO, density_model, empty_guide
from pyro_nf.infer._optimizer import JointOptimizer, adam
from pyro_nf.infer.checkpoint import load_checkpoint

torch.set_num_threads(1)


class GaussianFlow(nn.Module):
    """The interface of a flow around a Gaussian: mean (of the context) and log-scale are free."""

    def __init__(self, input_dim=2, context_dim=0, dropout=0.0):
        super().__init__()
        self.input_dim, self.context_dim = input_dim, context_dim
        self.event_shape = torch.Size([input_dim])
        self.mean = nn.Linear(max(context_dim, 1), input_dim)
        self.log_scale = nn.Parameter(torch.zeros(input_dim))
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("shift", torch.zeros(input_dim))
        self.register_buffer("initialized", torch.tensor(0))
        self.broken = False
        self._side_results = None

    def forward(self, context=None):
        features = self.shift.new_ones(1) if context is None else context
        loc = self.dropout(self.mean(features)) + self.shift
        scale = self.log_scale.exp() * (math.nan if self.broken else 1.0)
        if self._side_results is not None:
            self._side_results["size"] = (self.log_scale**2).sum().expand(3)
        return dist.Normal(loc, scale, validate_args=False).to_event(1)

    @torch.no_grad()
    def initialize(self, x, context=None):
        if not self.initialized:
            self.shift.copy_(x.mean(0))
            self.initialized.fill_(1)

    @contextmanager
    def auxiliary(self):
        self._side_results = {}
        try:
            yield self._side_results
        finally:
            self._side_results = None


@pytest.fixture
def x():
    return torch.randn(400, 2, generator=torch.Generator().manual_seed(1)) * 2.0 + 3.0


def weights(flow):
    return {name: value.clone() for name, value in flow.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


# What it learns


def test_reaches_the_maximum_likelihood(x):
    flow = GaussianFlow()
    options = {"max_steps": 600, "batch_size": 400, "learning_rate": 2e-2}
    result = fit_density(flow, x, validation=None, **options)
    best = dist.Normal(x.mean(0), x.std(0, unbiased=False)).to_event(1).log_prob(x).mean()
    torch.testing.assert_close(flow().log_prob(x).mean(), best, atol=1e-4, rtol=0)
    assert result.stopped == "max_steps"
    assert result.best_loss == pytest.approx(-best.item(), abs=1e-3)
    assert len(result.train_losses) == result.steps == result.best_step == 600


def test_learns_from_a_context():
    context = torch.randn(1000, 1)
    y = torch.cat([2 * context, -context], 1) + 0.1 * torch.randn(1000, 2)
    flow = GaussianFlow(context_dim=1)
    fit_density(flow, y, context=context, max_steps=1500, learning_rate=1e-2)
    torch.testing.assert_close(
        flow.mean.weight.detach().flatten(), torch.tensor([2.0, -1.0]), atol=0.02, rtol=0
    )


@pytest.mark.parametrize("kind", ["float64 array", "float16 array", "read-only array", "list"])
def test_takes_what_numpy_takes(x, kind):
    array = x.numpy().astype(np.float16 if "16" in kind else np.float64)
    array.setflags(write=kind != "read-only array")
    data = array.tolist() if kind == "list" else array
    flow = GaussianFlow()
    fit_density(flow, data, max_steps=3)
    assert flow.mean.weight.dtype == torch.float32


def test_casts_to_the_flow(x):
    flow = GaussianFlow().double()
    result = fit_density(flow, x, max_steps=3)
    assert flow.mean.weight.dtype == torch.float64
    assert math.isfinite(result.best_loss)


def test_initialises_from_training_rows_once(x):
    flow = GaussianFlow()
    fit_density(flow, x, max_steps=1)
    shift = flow.shift.clone()
    torch.testing.assert_close(shift, x.mean(0), atol=0.2, rtol=0)
    fit_density(flow, x + 100, max_steps=1)
    assert torch.equal(flow.shift, shift)


# The loss is Pyro's


def test_loss_and_gradient_are_those_of_trace_elbo(x):
    flow = GaussianFlow()

    def model(x, context):
        pyro.module("flow", flow)
        density_model(flow)(x, context)

    loss = Trace_ELBO().loss_and_grads(model, empty_guide, x, None)
    expected = [p.grad.clone() for p in flow.parameters()]
    flow.zero_grad()
    seen = []
    ours = DensityELBO(flow, {}, lambda *report: seen.append(report))
    assert ours.loss_and_grads(density_model(flow), empty_guide, x, None) == pytest.approx(loss)
    assert loss == pytest.approx(-flow().log_prob(x).mean().item())
    assert seen[0][0] == pytest.approx(loss)
    for parameter, gradient in zip(flow.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_steps_equal_a_bare_loop(x):
    flow, bare = GaussianFlow(), GaussianFlow()
    bare.load_state_dict(flow.state_dict())
    optimizer = torch.optim.Adam(bare.parameters(), lr=0.01, fused=True)
    joint = JointOptimizer(adam(0.01)(list(flow.parameters())), lambda step: 1.0, 5.0)
    elbo = DensityELBO(flow, {}, lambda loss, _: setattr(joint, "loss", loss))
    svi = SVI(density_model(flow), empty_guide, joint, elbo)
    for _ in range(20):
        svi.step(x, None)
        optimizer.zero_grad()
        (-bare().log_prob(x).mean()).backward()
        nn.utils.clip_grad_norm_(bare.parameters(), 5.0)
        optimizer.step()
    for ours, theirs in zip(flow.parameters(), bare.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_leaves_the_parameter_store_alone(x):
    class Scaled(GaussianFlow, PyroModule):
        def __init__(self):
            super().__init__()
            self.scale = PyroParam(torch.tensor([1.0, 1.0]), dist.constraints.positive)

        def forward(self, context=None):
            loc = self.mean(self.shift.new_ones(1)) + self.shift
            return dist.Normal(loc, self.scale).to_event(1)

    # A parameter of the same name would replace the flow's own.
    stale = pyro.param("scale", torch.tensor([9.0, 9.0]), constraint=dist.constraints.positive)
    flow = Scaled()
    fit_density(flow, x, validation=None, max_steps=800, batch_size=400, learning_rate=2e-2)
    torch.testing.assert_close(flow.scale.detach(), x.std(0), atol=1e-2, rtol=0)
    assert list(pyro.get_param_store()) == ["scale"]
    assert torch.equal(pyro.param("scale"), stale)


def test_side_results_enter_the_objective(x):
    free, bound = GaussianFlow(), GaussianFlow()
    options = {"validation": None, "max_steps": 400, "learning_rate": 1e-2}
    seen = []
    fit_density(free, x, **options)
    result = fit_density(
        bound, x, **options, aux_weights={"size": 100.0}, callback=lambda s, v: seen.append(v)
    )
    assert bound.log_scale.abs().max() < 0.05 < free.log_scale.abs().min()
    assert set(seen[0]) == {"train", "size"}
    nats = -bound().log_prob(x).mean().item()
    assert result.best_loss == pytest.approx(nats, abs=0.1)  # the penalty is not part of it


# Options


def test_best_weights_are_kept_and_patience_stops(x):
    # Weights start at their best on the held-out rows: a long way up leads only away from it.
    flow = GaussianFlow()
    held_out = torch.zeros(50, 2)
    flow.initialized.fill_(1)
    before = weights(flow)
    result = fit_density(
        flow,
        x + 50,
        validation=held_out,
        validate_every=10,
        patience=40,
        clip_norm=None,
        optimizer=lambda p: torch.optim.SGD(p[:1], lr=1e-4),
    )
    assert (result.stopped, result.steps) == ("early", 40 + result.best_step)
    assert result.best_loss == min(loss for _, loss in result.validation_losses)
    assert result.best_step == 0
    assert same(before, weights(flow))


def test_flow_is_what_the_best_loss_says(x):
    flow = GaussianFlow()
    result = fit_density(flow, x, validation=x[:100], max_steps=50, validate_every=7)
    assert [step for step, _ in result.validation_losses] == [0, 7, 14, 21, 28, 35, 42, 49, 50]
    assert -flow().log_prob(x[:100]).mean().item() == pytest.approx(result.best_loss)


def test_cosine_and_own_schedules():
    rates = []

    class Recorder(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    def run(schedule):
        rates.clear()
        x = torch.randn(20, 2)
        fit_density(
            GaussianFlow(),
            x,
            max_steps=4,
            schedule=schedule,
            optimizer=lambda p: Recorder(p, lr=0.1),
        )
        return list(rates)

    assert run("constant") == [0.1] * 4
    assert run("cosine") == pytest.approx([0.1, 0.085355339, 0.05, 0.014644661])
    assert run(lambda step: 1 / (1 + step)) == pytest.approx([0.1, 0.05, 0.1 / 3, 0.025])


def test_seed_decides_the_course(x):
    losses = [
        fit_density(GaussianFlow(), x, seed=seed, batch_size=32, max_steps=5).train_losses
        for seed in (0, 0, 1)
        if pyro.set_rng_seed(0) is None
    ]
    assert losses[0] == losses[1] != losses[2]


def test_modes_are_restored(x):
    flow = GaussianFlow(dropout=0.5)
    flow.dropout.eval()
    modes = []
    fit_density(flow, x, max_steps=2, callback=lambda *_: modes.append(flow.dropout.training))
    assert modes == [True, True]
    assert (flow.training, flow.dropout.training) == (True, False)


def test_small_sets_make_one_batch():
    result = fit_density(GaussianFlow(), torch.randn(5, 2), max_steps=3)
    assert result.steps == 3


def test_every_row_is_seen_once_a_pass():
    rows = torch.arange(20.0)[:, None]
    seen = []

    class Recorder(GaussianFlow):
        def forward(self, context=None):
            seen.append(context)
            return super().forward(context)

    flow = Recorder(1, 1)
    fit_density(flow, rows, context=rows, validation=0, batch_size=5, max_steps=4)
    batches = [c for c in seen if c is not None and len(c) == 5]
    assert sorted(torch.cat(batches).flatten().tolist()) == list(range(20))


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


def test_loader_resumes_exactly(x, tmp_path):
    def loader():
        return DataLoader(TensorDataset(x), batch_size=64, shuffle=True)

    assert_resumes(lambda: GaussianFlow(dropout=0.3), loader, tmp_path / "fit.pt")


# Failures


@contextmanager
def broken_from(flow, first, last=math.inf):
    """Makes the flow's scores NaN in the given steps, through a hook on its calls."""
    calls = {"n": 0}

    def count(*_):
        if flow.training and torch.is_grad_enabled():
            calls["n"] += 1
            flow.broken = first <= calls["n"] <= last

    handle = flow.register_forward_pre_hook(count)
    yield
    handle.remove()
    flow.broken = False


def test_non_finite_steps_are_skipped(x):
    flow = GaussianFlow()
    with (
        broken_from(flow, 3, 5),
        pytest.warns(UserWarning, match="skipped step 3, whose loss") as caught,
    ):
        result = fit_density(flow, x, max_steps=20)
    assert len(caught) == 1
    assert (result.stopped, result.steps) == ("max_steps", 20)
    assert [i for i, v in enumerate(result.train_losses) if math.isnan(v)] == [2, 3, 4]
    assert all(torch.isfinite(p).all() for p in flow.parameters())


@pytest.mark.parametrize("validation", [0.1, None])
def test_ten_non_finite_steps_stop(x, validation):
    flow = GaussianFlow()
    with broken_from(flow, 31), pytest.warns(UserWarning, match="fit_density") as caught:
        result = fit_density(flow, x, validation=validation, validate_every=10)
    messages = [str(w.message) for w in caught]
    assert len(messages) == 2
    assert "stopped after 10 steps in a row" in messages[1]
    assert (result.stopped, result.steps, result.best_step) == ("non-finite", 40, 30)
    assert torch.isfinite(flow().log_prob(x)).all()


def test_interrupt_returns_the_best_so_far(x):
    flow = GaussianFlow()

    def interrupt(step, losses):
        if step == 25:
            raise KeyboardInterrupt

    result = fit_density(flow, x, validate_every=10, callback=interrupt)
    assert (result.stopped, result.steps, result.best_step) == ("interrupted", 25, 20)
    assert flow.training


def test_other_errors_leave_the_best_weights(x):
    flow, seen = GaussianFlow(), {}

    def fail(step, losses):
        if "validation" in losses:
            seen[losses["validation"]] = weights(flow)
        if step == 25:
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fit_density(flow, x, validate_every=10, callback=fail)
    assert same(seen[min(seen)], weights(flow))


# Checkpoints


def assert_resumes(make_flow, make_data, path, *, steps=60, first=30):
    """Asserts that an interrupted and resumed fit equals the one without a break, to the bit."""
    options = {"max_steps": steps, "validate_every": 7, "checkpoint_every": first // 3}
    pyro.set_rng_seed(5)
    straight = make_flow()
    expected = fit_density(straight, make_data(), **options)

    def interrupt(step, losses):
        if step == first + 4:
            raise KeyboardInterrupt

    pyro.set_rng_seed(5)
    part = fit_density(make_flow(), make_data(), **options, checkpoint=path, callback=interrupt)
    assert part.stopped == "interrupted"
    pyro.set_rng_seed(77)
    resumed = make_flow()
    result = fit_density(resumed, make_data(), **options, checkpoint=path, resume=True)
    assert result.train_losses == expected.train_losses
    assert result.validation_losses == expected.validation_losses
    assert (result.best_step, result.best_loss) == (expected.best_step, expected.best_loss)
    assert same(weights(straight), weights(resumed))
    return result


def test_resumes_to_the_bit(x, tmp_path):
    path = tmp_path / "folder" / "fit.pt"
    result = assert_resumes(lambda: GaussianFlow(dropout=0.3), lambda: x, path)
    assert load_checkpoint(path)["history"]["train"].tolist() == result.train_losses
    assert [file.name for file in path.parent.iterdir()] == ["fit.pt"]


def test_longer_runs_continue_shorter_ones(x, tmp_path):
    options = {"schedule": "constant", "batch_size": 64, "validation": None}
    straight, parts = GaussianFlow(), GaussianFlow()
    parts.load_state_dict(straight.state_dict())
    fit_density(straight, x, max_steps=60, **options)
    fit_density(parts, x, max_steps=30, checkpoint=tmp_path / "a", **options)
    result = fit_density(parts, x, max_steps=60, checkpoint=tmp_path / "a", resume=True, **options)
    assert result.steps == 60
    assert same(weights(straight), weights(parts))


def test_resume_without_a_file_starts_afresh(x, tmp_path):
    result = fit_density(GaussianFlow(), x, max_steps=2, checkpoint=tmp_path / "none", resume=True)
    assert result.steps == 2
    assert (tmp_path / "none").exists()


def test_resume_refuses_another_fit(x, tmp_path):
    path = tmp_path / "fit.pt"
    fit_density(GaussianFlow(), x, max_steps=2, checkpoint=path)
    with pytest.raises(ValueError, match="made with rows=360, this fit has rows=270"):
        fit_density(GaussianFlow(), x[:300], max_steps=2, checkpoint=path, resume=True)
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="is no checkpoint of a fit"):
        fit_density(GaussianFlow(), x, max_steps=2, checkpoint=path, resume=True)


# What is refused before training

BAD_INPUT = {
    "last dimension": (
        {"data": torch.randn(9, 3)},
        r"shape \(9, 3\); the flow expects \(rows, 2\)",
    ),
    "one dimension": ({"data": torch.randn(9)}, r"shape \(9,\); the flow expects \(rows, 2\)"),
    "integers": ({"data": torch.ones(9, 2, dtype=torch.long)}, "data of dtype int64"),
    "integer array": ({"data": np.ones((9, 2), dtype=np.uint8)}, "data of dtype int64"),
    "booleans": ({"data": np.ones((9, 2), dtype=bool)}, "data of dtype bool"),
    "complex": ({"data": torch.ones(9, 2, dtype=torch.cfloat)}, "data of dtype complex64"),
    "empty": ({"data": torch.ones(0, 2)}, "data without rows"),
    "one row": ({"data": torch.ones(1, 2), "validation": 0}, "1 rows to train on"),
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


def test_repr_is_short(x):
    result = fit_density(GaussianFlow(), x, max_steps=3)
    assert repr(result).startswith("FitResult(best_loss=")
    assert "stopped='max_steps'" in repr(result)


# Named flows


def test_named_flow_resumes_to_the_bit(x, tmp_path):
    assert_resumes(lambda: flows.nsf(2, transforms=2, hidden_dims=(8,)), lambda: x, tmp_path / "f")


def test_flow_of_pyro_modules_leaves_the_store_alone(x):
    flow = flows.maf(2, transforms=1, hidden_dims=(4,))
    to_pyro_module_(flow)
    result = fit_density(flow, x, max_steps=5)
    assert result.steps == 5
    assert len(pyro.get_param_store()) == 0


def test_recovers_a_conditional_density():
    context = 2 * torch.rand(4000, 1) - 1
    noise = torch.randn(4000, 1)
    y = context**2 + (0.1 + 0.5 * context.abs()) * noise
    flow = flows.nsf(1, context_dim=1, transforms=2, hidden_dims=(32,))
    held_out = slice(0, 1000)
    fit_density(flow, y[1000:], context=context[1000:], max_steps=500)
    truth = dist.Normal(context**2, 0.1 + 0.5 * context.abs()).to_event(1)
    gap = (truth.log_prob(y) - flow(context).log_prob(y))[held_out].mean()
    assert abs(gap.item()) < 0.05
