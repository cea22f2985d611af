"""Fits of a density that fail, are interrupted, and are continued."""

from __future__ import annotations

import math
import pickle
import signal
import threading
from contextlib import contextmanager, nullcontext

import pyro
import pytest
import torch
from gaussian_flow import GaussianFlow, gaussian_rows, same, weights
from torch.utils.data import DataLoader, TensorDataset

from pyro_nf import flows
from pyro_nf.bijections import ConvergenceError
from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.infer import fit_density
from pyro_nf.infer._interrupt import interrupt_after
from pyro_nf.infer.checkpoint import load_checkpoint
from pyro_nf.nn import FieldMLP
from pyro_nf.transforms import Continuous


@pytest.fixture(autouse=True)
def _pythons_own_interrupts():
    """A shell starts background jobs with Ctrl-C ignored; here it is what is tested."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


torch.set_num_threads(1)


@pytest.fixture
def x():
    return gaussian_rows()


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


def test_steps_without_an_inverse_are_skipped(x):
    """A numerical inverse that is not found costs its step, not the fit."""
    flow = GaussianFlow()
    flow.failure = ConvergenceError("no inverse was found")
    with broken_from(flow, 3, 5), pytest.warns(UserWarning, match="skipped step 3") as caught:
        result = fit_density(flow, x, max_steps=20)
    assert len(caught) == 1
    assert [i for i, v in enumerate(result.train_losses) if math.isnan(v)] == [2, 3, 4]


def test_steps_without_a_gradient_are_skipped(x):
    """So does an adjoint equation that cannot be solved."""
    flow, calls = GaussianFlow(), []

    def fail(gradient):
        calls.append(gradient)
        if len(calls) == 3:
            raise ConvergenceError("no gradient was found")

    flow.log_scale.register_hook(fail)
    with pytest.warns(UserWarning, match="skipped step 3"):
        result = fit_density(flow, x, max_steps=6)
    assert [i for i, v in enumerate(result.train_losses) if math.isnan(v)] == [2]


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


def break_off(how):
    """Ends a fit the way ``how`` says, from within a callback or a step."""
    if how == "signal":
        signal.raise_signal(signal.SIGINT)
    raise KeyboardInterrupt if how == "interrupt" else OSError("power failure")


def assert_resumes(make_flow, make_data, path, *, steps=60, first=30, how="interrupt"):
    """Asserts that a broken off and resumed fit equals the one without a break, to the bit."""
    options = {"max_steps": steps, "validate_every": 7, "checkpoint_every": first // 3}
    pyro.set_rng_seed(5)
    straight = make_flow()
    expected = fit_density(straight, make_data(), **options)

    def end(step, losses):
        if step == first + 4:
            break_off(how)

    pyro.set_rng_seed(5)
    with pytest.raises(OSError, match="power") if how == "error" else nullcontext():
        part = fit_density(make_flow(), make_data(), **options, checkpoint=path, callback=end)
        assert part.stopped == "interrupted"
    # Ctrl-C leaves a checkpoint of its own, anything else the last regular one.
    saved = first if how == "error" else first + 4
    assert len(load_checkpoint(path)["history"]["train"]) == saved
    pyro.set_rng_seed(77)
    resumed = make_flow()
    result = fit_density(resumed, make_data(), **options, checkpoint=path, resume=True)
    assert result.train_losses == expected.train_losses
    assert result.validation_losses == expected.validation_losses
    assert result.evaluations == expected.evaluations
    assert (result.best_step, result.best_loss) == (expected.best_step, expected.best_loss)
    assert same(weights(straight), weights(resumed))
    return result


@pytest.mark.parametrize("how", ["interrupt", "signal", "error"])
def test_resumes_to_the_bit(x, tmp_path, how):
    path = tmp_path / "folder" / "fit.pt"
    result = assert_resumes(lambda: GaussianFlow(dropout=0.3), lambda: x, path, how=how)
    assert load_checkpoint(path)["history"]["train"].tolist() == result.train_losses
    assert [file.name for file in path.parent.iterdir()] == ["fit.pt"]


class Interrupted(GaussianFlow):
    """Ctrl-C comes while the step ``at`` is scored, as often as ``times`` says."""

    def __init__(self, at=math.inf, times=1):
        super().__init__(dropout=0.3)
        self.at, self.times, self.calls = at, times, 0

    def forward(self, context=None):
        self.calls += self.training and torch.is_grad_enabled()
        if self.calls == self.at:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        return super().forward(context)


def test_interrupt_waits_for_the_step_and_saves(x, tmp_path):
    def fit(flow, **options):
        pyro.set_rng_seed(5)
        torch.nn.init.zeros_(flow.mean.weight)
        torch.nn.init.zeros_(flow.mean.bias)
        result = fit_density(flow, x, max_steps=40, validate_every=7, **options)
        return result, weights(flow)

    path = tmp_path / "fit.pt"
    expected, straight = fit(Interrupted())
    part, _ = fit(Interrupted(at=25), checkpoint=path)
    assert (part.stopped, part.steps) == ("interrupted", 25)
    result, resumed = fit(Interrupted(), checkpoint=path, resume=True)
    assert result.train_losses == expected.train_losses
    assert same(straight, resumed)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_interrupt_does_not_wait(x, tmp_path):
    path = tmp_path / "fit.pt"
    options = {"max_steps": 40, "checkpoint": path, "checkpoint_every": 10}
    result = fit_density(Interrupted(at=25, times=2), x, **options)
    assert (result.stopped, result.steps) == ("interrupted", 24)
    assert len(load_checkpoint(path)["history"]["train"]) == 20  # half a step cannot be continued
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupt_beside_a_failure_is_an_interrupt():
    @interrupt_after()
    def step():
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError("a worker exited")

    with pytest.raises(KeyboardInterrupt) as caught:
        step()
    assert "a worker exited" in str(caught.value.__cause__)


def test_handlers_of_others_and_other_threads_are_left_alone():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append("theirs"))
    try:
        with interrupt_after():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["theirs"]

    def in_thread():
        with interrupt_after():
            seen.append("ran")

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert seen == ["theirs", "ran"]


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


FOREIGN = {
    "empty": b"",
    "text": b"Some notes on the fit.\n",
    "numbers": b"1.0, 2.0\n3.0, 4.0\n",
    "zip": b"PK\x03\x04" + bytes(60),
    "pickle": pickle.dumps({"format": 1}),
    "pickled code": pickle.dumps(math.sin),
    "zeros": bytes(500),
}


@pytest.mark.parametrize("kind", [*FOREIGN, "other dict", "tensor", "module", "truncated"])
def test_resume_refuses_what_is_no_checkpoint(x, tmp_path, kind):
    path = tmp_path / "weights.pt"
    if kind == "truncated":
        fit_density(GaussianFlow(), x, max_steps=1, checkpoint=path)
        path.write_bytes(path.read_bytes()[:1000])
    elif kind in FOREIGN:
        path.write_bytes(FOREIGN[kind])
    else:
        others = {
            "other dict": {"format": 1, "weights": torch.zeros(1)},
            "tensor": torch.zeros(3),
            "module": torch.nn.Linear(1, 1),
        }
        torch.save(others[kind], path)
    flow = GaussianFlow()
    before = weights(flow)
    with pytest.raises(ValueError, match=r"weights.pt' is no checkpoint of a fit .* resume=False"):
        fit_density(flow, x, max_steps=2, checkpoint=path, resume=True)
    assert same(before, weights(flow))


def test_loader_resumes_exactly(x, tmp_path):
    def loader():
        return DataLoader(TensorDataset(x), batch_size=64, shuffle=True)

    assert_resumes(lambda: GaussianFlow(dropout=0.3), loader, tmp_path / "fit.pt")


def test_evaluations_resume(x, tmp_path):
    def make():
        layer = Continuous(FieldMLP(2, (4,)), rtol=1e-2, atol=1e-2)
        return Flow(DiagonalNormal(2), layer)

    result = assert_resumes(make, lambda: x, tmp_path / "fit.pt", steps=20, first=6)
    assert len(result.evaluations) == 20


def test_named_flow_resumes_to_the_bit(x, tmp_path):
    assert_resumes(lambda: flows.nsf(2, transforms=2, hidden_dims=(8,)), lambda: x, tmp_path / "f")
