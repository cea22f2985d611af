"""Continuous flows inside of Pyro: sampled weights, priors, guides, estimated weights."""

from __future__ import annotations

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from own_fields import Formula, OwnField, layer_of, mlp, points
from pyro import poutine
from pyro.infer import (
    MCMC,
    NUTS,
    SVI,
    Predictive,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from pyro.nn.module import to_pyro_module_
from pyro.ops.integrator import _EXCEPTION_HANDLERS, register_exception_handler
from pyro.optim import Adam
from torch import Tensor

from pyro_nf import flows
from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.transforms import IntegrationError

torch.set_num_threads(1)

GRADIENTS = pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
KINDS = pytest.mark.parametrize("kind", ["field", "module"])


def flow_of(*args: object, size: int = 2, **options: object) -> Flow:
    return Flow(DiagonalNormal(size).double(), layer_of(*args, **options))


def likelihood(flow: Flow):
    def model(x: Tensor) -> None:
        d = flow()
        with pyro.plate("data", len(x)):
            pyro.sample("x", d, obs=x)

    return model


def bayesian(kind: str, **options: object) -> tuple[Flow, Flow]:
    """A flow, and its twin in which one weight of the field is a random variable."""
    make = mlp if kind == "field" else OwnField
    sizes = () if kind == "field" else (2,)
    plain = flow_of(make(), *sizes, scale=0.5, **options)
    flow = flow_of(make(), *sizes, scale=0.5, **options)
    to_pyro_module_(flow)
    output = flow.transform.field.output if kind == "field" else flow.transform.field.outer
    output.weight = PyroSample(dist.Normal(output.weight.detach(), 0.3).to_event(2))
    return flow, plain


def set_weight(flow: Flow, value: Tensor) -> None:
    field = flow.transform.field
    with torch.no_grad():
        (field.output if hasattr(field, "output") else field.outer).weight.copy_(value)


# ------------------------------------------------------------------------------- sampled weights


@GRADIENTS
@KINDS
def test_one_draw_of_the_weights_makes_a_score(kind: str, gradient: str) -> None:
    flow, plain = bayesian(kind, gradient=gradient)
    trace = poutine.trace(likelihood(flow)).get_trace(points(4, 2))
    trace.compute_log_prob()
    (site,) = (name for name in trace.stochastic_nodes if name != "data")
    assert site.endswith("weight")
    set_weight(plain, trace.nodes[site]["value"])
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], plain().log_prob(points(4, 2)))

    with poutine.trace() as handler:
        d = flow()
    (site,) = handler.trace.stochastic_nodes
    set_weight(plain, handler.trace.nodes[site]["value"])
    draw = d.rsample((3,))
    for value in (draw, draw.clone()):
        torch.testing.assert_close(d.log_prob(value), plain().log_prob(value))


@KINDS
def test_every_gradient_reaches_the_guide_of_the_weights(kind: str) -> None:
    x, gradients = points(4, 2), []
    for gradient in ("backprop", "checkpoint", "adjoint"):
        pyro.clear_param_store()
        flow, _ = bayesian(kind, gradient=gradient, rtol=1e-8, atol=1e-8)
        model = likelihood(flow)
        guide = AutoNormal(model, init_scale=0.1)
        pyro.set_rng_seed(1)
        with torch.random.fork_rng():
            guide(x)
        loss = Trace_ELBO().differentiable_loss(model, guide, x)
        inside = dict(flow.named_parameters())
        leaves = [*guide.parameters(), *inside.values()]
        gradients.append(torch.autograd.grad(loss, leaves, materialize_grads=True))
    for got in gradients[1:]:
        torch.testing.assert_close(got, gradients[0], rtol=1e-5, atol=1e-6)
    assert all(part.abs().sum() > 0 for part in gradients[0][:2])


@GRADIENTS
@KINDS
def test_sampled_weights_are_learnt(kind: str, gradient: str) -> None:
    flow, _ = bayesian(kind, gradient=gradient, solver="rk4", steps=2)
    model, x = likelihood(flow), 2 + 0.3 * points(32, 2)
    guide = AutoNormal(model, init_scale=0.02)
    svi = SVI(model, guide, Adam({"lr": 0.03}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(20)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    (name,) = guide.median()
    assert Predictive(model, guide=guide, num_samples=2)(x)[name].shape[0] == 2


def test_nuts_over_the_weights() -> None:
    flow, _ = bayesian("module", solver="rk4", steps=3)
    options = {"step_size": 0.05, "adapt_step_size": False, "max_tree_depth": 2}
    mcmc = MCMC(NUTS(likelihood(flow), **options), 4, 2, disable_progbar=True)
    mcmc.run(points(6, 2))
    (draws,) = mcmc.get_samples().values()
    assert draws.shape == (4, 2, 4)
    assert len(draws.unique(dim=0)) > 1


class Bayesian(PyroModule):
    """A field of the user's own whose weights are all random, with a constrained parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.w = PyroSample(dist.Normal(torch.zeros(2, 2).double(), 0.5).to_event(2))
        self.rate = pyro.nn.PyroParam(
            torch.tensor(0.5).double(), constraint=dist.constraints.positive
        )

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return self.rate * torch.tanh(z @ self.w)


@GRADIENTS
def test_a_users_pyro_module_as_a_field(gradient: str) -> None:
    flow = PyroModule[Flow](DiagonalNormal(2).double(), layer_of(Bayesian(), 2, gradient=gradient))
    trace = poutine.trace(likelihood(flow)).get_trace(points(3, 2))
    assert [n for n in trace.stochastic_nodes if n != "data"] == ["w"]
    assert "rate" in trace.param_nodes
    score = trace.nodes["x"]["fn"].log_prob(points(3, 2)).sum()
    (slope,) = torch.autograd.grad(score, flow.transform.field.rate_unconstrained)
    assert slope.abs() > 0

    weight = trace.nodes["w"]["value"]
    plain = flow_of(Formula(lambda a, t, z: 0.5 * a * torch.tanh(z @ weight)), 2)
    torch.testing.assert_close(score, plain().log_prob(points(3, 2)).sum())


# --------------------------------------------------------------------------------- priors, guides


def conjugate(prior, x: Tensor) -> None:
    z = pyro.sample("z", prior())
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def test_a_prior_under_nuts() -> None:
    """An affine field, so that prior and posterior are normal."""
    field = mlp(2, (), time="none", scale=0.4)
    flow = flow_of(field)
    x = points(3, 2) + 1
    kernel = NUTS(conjugate, step_size=0.3, max_tree_depth=3)
    mcmc = MCMC(kernel, num_samples=60, warmup_steps=15, disable_progbar=True)
    mcmc.run(flow, x)
    z = mcmc.get_samples()["z"]
    root = torch.linalg.matrix_exp(field.output.weight).detach()
    loc = flow.transform(torch.zeros(2).double()).detach()
    precision = (root @ root.t()).inverse()
    total = precision + 3 / 0.25 * torch.eye(2)
    mean = torch.linalg.solve(total, precision @ loc + x.sum(0) / 0.25)
    # Four standard errors of a fourth as many independent draws.
    bound = 4 * total.inverse().diagonal().sqrt() / math.sqrt(60 / 4)
    assert ((z.mean(0) - mean).abs() <= bound).all()
    assert all(parameter.grad is None for parameter in flow.parameters())


def test_a_chain_goes_on_where_the_map_ends() -> None:
    """The inverse of dz/dt = -z³ ends at |y| = 1/√2; Pyro takes that for a divergence if told."""
    flow = flow_of(Formula(lambda a, t, z: -a * z**3), 1, size=1, rtol=1e-3, max_steps=50)
    model = lambda: pyro.sample("z", flow())  # noqa: E731
    start = {"z": torch.tensor([0.5]).double()}

    def chain() -> Tensor:
        kernel = NUTS(model, step_size=0.6, adapt_step_size=False, max_tree_depth=2)
        mcmc = MCMC(kernel, 12, 0, initial_params=dict(start), disable_progbar=True)
        mcmc.run()
        return mcmc.get_samples()["z"]

    with pytest.raises(IntegrationError):
        chain()
    register_exception_handler("flow", lambda e: isinstance(e, IntegrationError))
    try:
        z = chain()
    finally:
        del _EXCEPTION_HANDLERS["flow"]
    assert z.abs().max() < 0.5**0.5
    assert z.unique().numel() > 1


@GRADIENTS
def test_a_guide_finds_a_normal_posterior(gradient: str) -> None:
    x = points(5, 2) + 1
    precision = 1 + 5 / 0.25
    mean, scale = x.sum(0) / 0.25 / precision, precision**-0.5
    flow = flow_of(mlp(2, (), scale=0.1), solver="rk4", steps=2, gradient=gradient)

    def prior() -> dist.Distribution:
        return dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)

    def guide(prior, x: Tensor) -> None:
        del prior, x
        pyro.module("guide", flow)
        pyro.sample("z", flow())

    elbo = Trace_ELBO(num_particles=16, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(conjugate, guide, Adam({"lr": 0.05}), elbo)
    losses = [svi.step(prior, x) for _ in range(150)]
    assert sum(losses[-10:]) < sum(losses[:10])
    draws = flow().sample((2000,))
    assert ((draws.mean(0) - mean).abs() <= 0.3 * scale).all()
    assert ((draws.std(0) / scale).log().abs() <= 0.2).all()
    posterior = Predictive(conjugate, guide=guide, num_samples=7)(prior, x)
    assert posterior["x"].shape == (7, 5, 2)


def test_an_amortized_guide_trains_its_encoder() -> None:
    flow = flow_of(mlp(2, (4,), context_dim=2), solver="rk4", steps=3, gradient="checkpoint")
    encoder, x = torch.nn.Linear(2, 2).double(), points(6, 2)
    before = encoder.weight.clone()

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("flow", flow)
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", flow(encoder(x)))

    svi = SVI(model, guide, Adam({"lr": 0.02}), TraceMeanField_ELBO())
    losses = [svi.step(x) for _ in range(20)]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert (encoder.weight - before).abs().min() > 0


def test_the_parameter_store_brings_a_flow_back(tmp_path) -> None:
    flow, x = flows.cnf(2, hidden_dims=(4,), learn_end_time=True), points(4, 2).float()

    def model(flow: Flow, x: Tensor) -> None:
        pyro.module("flow", flow)
        likelihood(flow)(x)

    svi = SVI(model, lambda flow, x: None, Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(3):
        svi.step(flow, x)
    pyro.get_param_store().save(tmp_path / "store.pt")
    pyro.clear_param_store()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        pyro.get_param_store().load(tmp_path / "store.pt")
    other = flows.cnf(2, hidden_dims=(4,), learn_end_time=True)
    pyro.module("flow", other, update_module_params=True)
    assert torch.equal(other().log_prob(x), flow().log_prob(x))
    assert other.transform.parts[0].end_time != 1


# ------------------------------------------------------------------------------ estimated weights


@pytest.mark.parametrize(
    ("loss", "trace", "warns"),
    [
        (RenyiELBO(alpha=0.5, num_particles=2), "hutchinson", True),
        (ReweightedWakeSleep(num_particles=2), "hutchinson", True),
        (RenyiELBO(alpha=0.5, num_particles=2), "exact", False),
        (Trace_ELBO(num_particles=2), "hutchinson", False),
    ],
)
def test_estimates_under_importance_weights_warn(loss, trace: str, warns: bool) -> None:  # noqa: FBT001
    flow = flow_of(mlp(), trace=trace, solver="euler", steps=2)

    def model() -> None:
        pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))

    def guide() -> None:
        pyro.module("guide", flow)
        pyro.sample("z", flow())

    svi = SVI(model, guide, Adam({"lr": 0.01}), loss)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        svi.step()
    assert any('trace="exact"' in str(w.message) for w in caught) == warns
