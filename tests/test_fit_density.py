"""The fit of a density: what it learns, keeps and returns."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from gaussian_flow import GaussianFlow, gaussian_rows, same, weights
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from pyro.nn.module import to_pyro_module_
from torch import nn

from pyro_nf import flows
from pyro_nf.bijections import ConvergenceError
from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.infer import fit_density
from pyro_nf.infer._elbo import DensityELBO, density_model, empty_guide
from pyro_nf.infer._optimizer import JointOptimizer, adam
from pyro_nf.nn import FieldMLP
from pyro_nf.transforms import ActNorm, Continuous

torch.set_num_threads(1)


@pytest.fixture
def x():
    return gaussian_rows()


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


def cnf(**options):
    parts = [Continuous(FieldMLP(2, (4,)), **options) for _ in range(2)]
    return Flow(DiagonalNormal(2), [parts[0], ActNorm(2), parts[1]])


def test_a_flows_own_weights_are_the_default(x):
    flow, seen = cnf(solver="rk4", steps=1), []
    options = {"max_steps": 1, "callback": lambda step, losses: seen.append(set(losses))}
    fit_density(flow, x, **options)
    flow.aux_weights = {"kinetic": 0.1, "jacobian": 0.1}
    fit_density(flow, x, **options)
    fit_density(flow, x, **options, aux_weights={})
    fit_density(flow, x, **options, aux_weights={"kinetic": 1.0})
    always = {"train", "validation"}
    assert seen == [always, always | {"kinetic", "jacobian"}, always, always | {"kinetic"}]
    with pytest.raises(
        ValueError, match="'hjb'; the flow's layers record 'jacobian', 'kinetic'. "
    ):
        fit_density(flow, x, aux_weights={"kinetic": 1.0, "hjb": 1.0})


def test_kinetic_energy_is_what_is_weighted(x):
    skew, energies = (x / 2).exp(), []
    for weight in (0.0, 100.0):
        torch.manual_seed(0)
        flow = cnf(solver="rk4", steps=2)
        fit_density(flow, skew, max_steps=30, learning_rate=0.03, aux_weights={"kinetic": weight})
        with torch.no_grad(), flow.auxiliary(["kinetic"]) as results:
            flow().log_prob(skew)
        energies.append(float(results["kinetic"].mean()))
    assert energies[1] < 0.1 * energies[0]


# What a step costs


@pytest.mark.parametrize("gradient", ["backprop", "adjoint"])
def test_counts_the_evaluations_of_steps_alone(x, gradient):
    flow = cnf(solver="rk4", steps=2, eval_solver="euler", eval_steps=50, gradient=gradient)
    result = fit_density(flow, x, max_steps=3, validate_every=1)
    backward = 16 if gradient == "adjoint" else 0
    assert result.evaluations == [(16, backward)] * 3
    assert repr(result).endswith(f", evaluations=16+{backward})")
    assert fit_density(GaussianFlow(), x, max_steps=3).evaluations == []


def test_layers_that_a_failed_step_did_not_reach_count_nothing(x):
    flow = cnf(solver="rk4", steps=2)

    def fail_at_third(step, losses):
        def fail(*_):
            handle.remove()
            raise ConvergenceError("no base was found")

        if step == 2:
            handle = flow.base.register_forward_pre_hook(fail)

    with pytest.warns(UserWarning, match="skipped step 3"):
        result = fit_density(flow, x, max_steps=4, validate_every=1, callback=fail_at_third)
    assert result.evaluations == [(16, 0), (16, 0), (0, 0), (16, 0)]


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


def test_repr_is_short(x):
    result = fit_density(GaussianFlow(), x, max_steps=3)
    assert repr(result).startswith("FitResult(best_loss=")
    assert "stopped='max_steps'" in repr(result)


# Named flows


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
