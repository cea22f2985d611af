"""Flows inside of Pyro models: as priors, likelihoods and guides."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.optim import Adam

from pyro_nf.bijections import Affine, RationalQuadraticSpline
from pyro_nf.distributions.flow import Flow
from pyro_nf.distributions.normal import DiagonalNormal
from pyro_nf.distributions.student_t import StudentT
from pyro_nf.transforms import (
    ActNorm,
    Autoregressive,
    Coupling,
    Permutation,
    TriangularAffine,
)

SPLINE = RationalQuadraticSpline(bins=4)
BOXED = [constraints.positive, constraints.interval(-1.0, 2.0)]

LAYERS = {
    "triangular": lambda context_dim: [TriangularAffine(2), Permutation([1, 0]), ActNorm(2)],
    "coupling": lambda context_dim: Coupling(
        Affine(), 2, hidden_dims=[8], context_dim=context_dim
    ),
    "maf": lambda context_dim: Autoregressive(
        Affine(), 2, fast="log_prob", hidden_dims=[8], context_dim=context_dim
    ),
    "iaf-spline": lambda context_dim: Autoregressive(
        SPLINE, 2, fast="sample", hidden_dims=[8], context_dim=context_dim
    ),
}
each_layer = pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS.keys())
each_wiring = pytest.mark.parametrize("layers", list(LAYERS.values())[1:], ids=list(LAYERS)[1:])
each_support = pytest.mark.parametrize("support", [None, BOXED], ids=["real", "constrained"])


def make_flow(layers=LAYERS["coupling"], *, context_dim=0, support=None):
    return perturb(fresh_flow(layers, context_dim=context_dim, support=support))


def fresh_flow(layers, *, context_dim=0, support=None):
    return Flow(DiagonalNormal(2), layers(context_dim), support=support)


def perturb(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return module


def train(model, guide, *args, steps=3, loss=None):
    """Runs a few steps of SVI and returns the losses, which are finite."""
    svi = SVI(model, guide, Adam({"lr": 0.01}), loss or Trace_ELBO())
    losses = [svi.step(*args) for _ in range(steps)]
    assert all(torch.isfinite(torch.tensor(losses)))
    return losses


# --- Prior -----------------------------------------------------------------------------------


def prior_model(flow):
    def model(x):
        pyro.module("prior", flow)
        z = pyro.sample("z", flow())
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    return model


@each_layer
@each_support
@pytest.mark.parametrize("autoguide", [AutoNormal, AutoDiagonalNormal])
def test_prior_under_autoguides(layers, support, autoguide):
    flow = make_flow(layers, support=support)
    model, x = prior_model(flow), torch.randn(6, 2)
    guide = autoguide(model)
    before = [p.detach().clone() for p in flow.parameters()]
    train(model, guide, x)
    z = Predictive(guide, num_samples=7)(x)["z"].reshape(7, 2)
    assert flow().support.check(z).all()
    assert flow().support.check(guide.median(x)["z"])
    moved = [not torch.equal(p, old) for p, old in zip(flow.parameters(), before, strict=True)]
    assert any(moved)


@each_layer
@each_support
def test_prior_under_nuts(layers, support):
    flow = make_flow(layers, support=support)
    model = prior_model(flow)
    kernel = NUTS(model, max_tree_depth=3)
    mcmc = MCMC(kernel, num_samples=6, warmup_steps=6, disable_progbar=True)
    mcmc.run(0.5 + 0.1 * torch.randn(5, 2))
    z = mcmc.get_samples()["z"]
    assert z.shape == (6, 2)
    assert flow().support.check(z).all()
    assert torch.isfinite(flow().log_prob(z)).all()


def test_nuts_finds_the_posterior_of_a_linear_flow():
    flow = perturb(Flow(DiagonalNormal(2), TriangularAffine(2))).double()
    x = torch.tensor([[1.5, -0.5]], dtype=torch.float64)
    mcmc = MCMC(NUTS(prior_model(flow)), num_samples=300, warmup_steps=100, disable_progbar=True)
    mcmc.run(x)
    z = mcmc.get_samples()["z"]
    matrix = torch.autograd.functional.jacobian(flow.transform, torch.zeros(2).double())
    loc = flow.transform(torch.zeros(2).double()).detach()
    precision = torch.linalg.inv(matrix @ matrix.T)
    covariance = torch.linalg.inv(precision + torch.eye(2))
    mean = covariance @ (precision @ loc + x[0])
    torch.testing.assert_close(z.mean(0), mean, rtol=0, atol=0.25)
    torch.testing.assert_close(z.T.cov(), covariance, rtol=0, atol=0.25)


@pytest.mark.parametrize("base", [DiagonalNormal, StudentT])
def test_simplex_prior_under_nuts_and_an_autoguide(base):
    flow = perturb(Flow(base(2), TriangularAffine(2), support=constraints.simplex))

    def model(counts):
        p = pyro.sample("p", flow())
        pyro.sample("counts", dist.Multinomial(10, p, validate_args=False), obs=counts)

    counts = torch.tensor([5.0, 3.0, 2.0])
    mcmc = MCMC(NUTS(model, max_tree_depth=3), num_samples=5, warmup_steps=5, disable_progbar=True)
    mcmc.run(counts)
    assert mcmc.get_samples()["p"].shape == (5, 3)
    train(model, AutoNormal(model), counts)


# --- Likelihood, plates, masks ---------------------------------------------------------------


@each_layer
@each_support
def test_likelihood_of_a_subsampled_plate_is_scaled(layers, support):
    flow = make_flow(layers, support=support)
    x = flow().sample((12,))

    def model(x):
        pyro.module("flow", flow)
        with pyro.plate("data", len(x), subsample_size=4) as index:
            pyro.sample("x", flow(), obs=x[index])

    trace = poutine.trace(model).get_trace(x)
    trace.compute_log_prob()
    site = trace.nodes["x"]
    assert site["log_prob"].shape == (4,)
    expected = 3 * flow().log_prob(site["value"])
    torch.testing.assert_close(site["log_prob"], expected)
    train(model, lambda x: None, x)


@each_layer
def test_draws_of_nested_plates_are_independent(layers):
    flow = make_flow(layers)

    def model():
        with pyro.plate("outer", 3, dim=-2), pyro.plate("inner", 4, dim=-1):
            return pyro.sample("z", flow())

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    z = trace.nodes["z"]["value"]
    assert z.shape == (3, 4, 2)
    assert trace.nodes["z"]["log_prob"].shape == (3, 4)
    assert z.flatten(0, 1).unique(dim=0).shape[0] == 12


@each_layer
@each_support
def test_mask_expand_and_to_event(layers, support):
    d = make_flow(layers, support=support)()
    x = d.sample((3, 4))
    expected = d.log_prob(x)
    mask = torch.tensor([True, False, True, True])
    torch.testing.assert_close(d.expand((4,)).mask(mask).log_prob(x), expected * mask)
    joint = d.expand((3, 4)).to_event(2)
    assert joint.event_shape == (3, 4, 2)
    torch.testing.assert_close(joint.log_prob(x), expected.sum())
    assert joint.rsample((5,)).shape == (5, 3, 4, 2)
    with poutine.mask(mask=mask), poutine.trace() as trace, pyro.plate("rows", 4):
        pyro.sample("x", d, obs=x[0])
    trace.trace.compute_log_prob()
    torch.testing.assert_close(trace.trace.nodes["x"]["log_prob"], expected[0] * mask)


@each_layer
@pytest.mark.parametrize("parallel", [True, False])
def test_predictive(layers, parallel):
    flow = make_flow(layers, support=BOXED)

    def model():
        z = pyro.sample("z", flow())
        with pyro.plate("data", 4):
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1))

    draws = Predictive(model, num_samples=5, parallel=parallel)()
    assert draws["x"].shape == (5, 4, 2)
    assert draws["z"].squeeze().shape == (5, 2)
    assert flow().support.check(draws["z"]).all()
    assert draws["z"].reshape(5, 2).unique(dim=0).shape[0] == 5


# --- Guide -----------------------------------------------------------------------------------


@each_layer
@pytest.mark.parametrize("loss", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("vectorized", [True, False])
def test_guide_learns_a_normal_posterior(layers, loss, vectorized):
    flow = Flow(DiagonalNormal(2), [fresh_flow(layers).transform, TriangularAffine(2)])

    def model():
        pyro.sample("z", dist.Normal(torch.tensor([1.0, -1.0]), 0.5).to_event(1))

    def guide():
        pyro.module("flow", flow)
        pyro.sample("z", flow())

    particles = 16 if vectorized else 1
    elbo = loss(num_particles=particles, vectorize_particles=vectorized, max_plate_nesting=0)
    svi = SVI(model, guide, Adam({"lr": 0.05}), elbo)
    losses = [svi.step() for _ in range(60 if vectorized else 3)]
    if vectorized:
        assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_one_pass_scores_the_own_draw_of_a_guide():
    flow = make_flow()
    passes = []
    layer = flow.transform
    for name in ("forward_and_ladj", "inverse_and_ladj"):
        original = getattr(layer, name)
        setattr(layer, name, lambda *a, f=original, n=name: (passes.append(n), f(*a))[1])

    def model():
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    def guide():
        pyro.sample("z", flow())

    Trace_ELBO().differentiable_loss(model, guide)
    assert passes == ["forward_and_ladj"]


# --- Context ---------------------------------------------------------------------------------


@each_wiring
@each_support
@pytest.mark.parametrize("batch", [(), (7,), (3, 4), (0,)], ids=str)
def test_conditional_flow_has_the_batch_of_its_context(layers, support, batch):
    flow = make_flow(layers, context_dim=3, support=support)
    d = flow(torch.randn(*batch, 3))
    assert d.batch_shape == batch
    draws = d.sample((11,))
    assert draws.shape == (11, *batch, 2)
    assert draws.reshape(-1, 2).unique(dim=0).shape[0] == draws.shape[:-1].numel()
    assert d.log_prob(draws).shape == (11, *batch)


@each_wiring
def test_conditional_flow_scores_each_row_with_its_context(layers):
    flow = make_flow(layers, context_dim=3)
    context, x = torch.randn(5, 3), torch.randn(5, 2)
    together = flow(context).log_prob(x)
    each = torch.stack([flow(c).log_prob(row) for c, row in zip(context, x, strict=True)])
    torch.testing.assert_close(together, each)
    assert not torch.allclose(together, flow(context.flip(0)).log_prob(x))


@each_wiring
def test_amortised_guide_and_conditional_likelihood_in_plates(layers):
    encoder = make_flow(layers, context_dim=2)
    likelihood = make_flow(layers, context_dim=2)
    x = torch.randn(10, 2)

    def model(x):
        pyro.module("likelihood", likelihood)
        with pyro.plate("data", len(x), subsample_size=5) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", likelihood(z), obs=x[index])

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x), subsample_size=5) as index:
            pyro.sample("z", encoder(x[index]))

    train(model, guide, x, loss=Trace_ELBO(num_particles=3, vectorize_particles=True))
    assert all(p.isfinite().all() for p in [*encoder.parameters(), *likelihood.parameters()])


def test_context_gets_a_gradient():
    flow = make_flow(context_dim=3)
    context = torch.randn(4, 3, requires_grad=True)
    flow(context).log_prob(torch.randn(4, 2)).sum().backward()
    assert context.grad.abs().sum() > 0


# --- Pyro's own distributions around a layer -------------------------------------------------


@each_layer
def test_layer_in_pyros_transformed_distribution(layers):
    flow = make_flow(layers)
    base = dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1)
    theirs = dist.TransformedDistribution(base, [flow.transform])
    x = torch.randn(5, 2)
    torch.testing.assert_close(theirs.log_prob(x), flow().log_prob(x))
    draw = theirs.rsample((4,))
    torch.testing.assert_close(theirs.log_prob(draw), flow().log_prob(draw))

    def model():
        pyro.module("layer", flow.transform)
        with pyro.plate("data", 5):
            pyro.sample("x", theirs, obs=x)

    train(model, lambda: None)


@each_wiring
def test_layer_in_pyros_conditional_distribution(layers):
    flow = make_flow(layers, context_dim=3)
    base = dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1)
    context = torch.randn(7, 3)
    theirs = dist.ConditionalTransformedDistribution(base, [flow.transform]).condition(context)
    assert theirs.batch_shape == (7,)
    draws = theirs.sample((11,))
    assert draws.shape == (11, 7, 2)
    assert draws.reshape(-1, 2).unique(dim=0).shape[0] == 77
    torch.testing.assert_close(theirs.log_prob(draws), flow(context).log_prob(draws))
