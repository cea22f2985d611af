"""Flows with weights that Pyro samples: one site in the trace, and scores that use its value."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_mean
from pyro.nn import PyroModule, PyroSample
from pyro.nn.module import to_pyro_module_
from pyro.optim import Adam

from pyro_nf.bijections import Affine
from pyro_nf.distributions.flow import Flow
from pyro_nf.distributions.normal import DiagonalNormal
from pyro_nf.transforms import Coupling, Elementwise, Permutation, ToSupport


def perturb(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return module


def train(model, guide, x, *, steps):
    svi = SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(steps)]
    assert all(torch.isfinite(torch.tensor(losses)))
    return losses


def bayesian_flow():
    """A flow, and its twin in which the weight of one layer is a random variable."""
    flow = perturb(Flow(DiagonalNormal(2), Coupling(Affine(), 2, hidden_dims=[4])))
    plain = Flow(DiagonalNormal(2), Coupling(Affine(), 2, hidden_dims=[4]))
    plain.load_state_dict(flow.state_dict())
    to_pyro_module_(flow)
    output = flow.transform.network.output
    prior = dist.Normal(0.0, 0.3).expand(output.weight.shape).to_event(2)
    output.weight = PyroSample(prior)
    return flow, plain


def bayesian_model(flow):
    def model(x):
        likelihood = flow()  # outside of the plate: one weight for all rows
        with pyro.plate("data", len(x)):
            pyro.sample("x", likelihood, obs=x)

    return model


def weight_sites(trace):
    return [name for name in trace.stochastic_nodes if name != "data"]


def test_sampled_weights_appear_once_and_make_the_score():
    flow, plain = bayesian_flow()
    assert isinstance(flow, PyroModule)
    x = torch.randn(6, 2)
    trace = poutine.trace(bayesian_model(flow)).get_trace(x)
    trace.compute_log_prob()
    (site,) = weight_sites(trace)
    assert site.endswith("output.weight")
    with torch.no_grad():
        plain.transform.network.output.weight.copy_(trace.nodes[site]["value"])
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], plain().log_prob(x))


def test_sampled_weights_hold_for_draw_and_score_of_one_distribution():
    flow, plain = bayesian_flow()
    with poutine.trace() as handler:
        d = flow()
    (site,) = weight_sites(handler.trace)
    with torch.no_grad():
        plain.transform.network.output.weight.copy_(handler.trace.nodes[site]["value"])
    draw = d.rsample((5,))
    torch.testing.assert_close(d.log_prob(draw), plain().log_prob(draw))
    torch.testing.assert_close(d.log_prob(draw.clone()), plain().log_prob(draw))


def test_sampled_weights_under_svi():
    flow, _ = bayesian_flow()
    model, x = bayesian_model(flow), torch.randn(6, 2)
    guide = AutoNormal(model)
    losses = train(model, guide, x, steps=20)
    assert len(set(losses)) == 20
    (name,) = guide.median()
    assert name.endswith("output.weight")
    draws = Predictive(model, guide=guide, num_samples=3)(x)
    assert draws[name].shape[0] == 3


def test_sampled_weights_under_nuts():
    flow, _ = bayesian_flow()
    # Five steps of warm-up would neither settle the step size nor leave a far start.
    kernel = NUTS(
        bayesian_model(flow),
        step_size=0.1,
        adapt_step_size=False,
        max_tree_depth=3,
        init_strategy=init_to_mean,
    )
    mcmc = MCMC(kernel, num_samples=5, warmup_steps=5, disable_progbar=True)
    mcmc.run(torch.randn(6, 2))
    (draws,) = mcmc.get_samples().values()
    assert draws.shape == (5, 2, 4)
    assert draws.unique(dim=0).shape[0] > 1


def test_sampled_weights_of_a_support_and_chain():
    box = [constraints.positive, constraints.interval(-1.0, 2.0)]
    chain = [Coupling(Affine(), 2, hidden_dims=[4]), Permutation([1, 0]), ToSupport(box, 2)]
    flow = perturb(Flow(DiagonalNormal(2), chain))
    to_pyro_module_(flow)
    bias = flow.transform.parts[0].network.output.bias
    flow.transform.parts[0].network.output.bias = PyroSample(
        dist.Normal(0.0, 1.0).expand(bias.shape).to_event(1)
    )
    x = flow().sample((6,))
    model = bayesian_model(flow)
    assert len(weight_sites(poutine.trace(model).get_trace(x))) == 1
    train(model, AutoNormal(model), x, steps=3)


def test_many_draws_of_the_weights_at_once_are_refused() -> None:
    layer = pyro.nn.PyroModule[Elementwise](Affine(), 2)
    layer.constants = pyro.nn.PyroSample(dist.Normal(0.0, 0.1).expand([2, 2]).to_event(2))
    flow = pyro.nn.PyroModule[Flow](DiagonalNormal(2), layer)

    def model(x):
        d = flow()
        with pyro.plate("rows", len(x)):
            pyro.sample("x", d, obs=x)

    guide = pyro.infer.autoguide.AutoNormal(model)
    x = torch.randn(6, 2)
    one = pyro.infer.Trace_ELBO(num_particles=3, max_plate_nesting=1)
    assert one.differentiable_loss(model, guide, x).isfinite()
    many = pyro.infer.Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    with pytest.raises(ValueError, match=r"shape \(3, 1, 2, 2\).*one draw of its weights"):
        many.differentiable_loss(model, guide, x)
