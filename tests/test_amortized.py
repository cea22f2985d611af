"""The amortised guide: unbiased batches, the exact posterior of a conjugate model, shapes."""

from __future__ import annotations

import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from amortized_models import (
    N,
    Y,
    both,
    conjugate,
    deep,
    encoder,
    guide_of,
    perturb,
    positive,
)
from pyro import poutine
from pyro.infer import (
    SVI,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoGuideList
from pyro.optim import Adam
from torch import nn

from pyro_nf import flows, infer
from pyro_nf.bijections import Affine
from pyro_nf.infer._draws import Pair
from pyro_nf.infer.autoguide.amortized import AutoAmortizedFlow

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


def log_densities(model, guide, auxiliary, *args):
    """Of the model and of the guide, given the guide's own draws; the rest follows from these."""
    with torch.no_grad(), poutine.block():
        guide_trace = poutine.trace(poutine.condition(guide, data=auxiliary)).get_trace(*args)
        values = {n: s["value"] for n, s in guide_trace.nodes.items() if s["type"] == "sample"}
        model_trace = poutine.trace(poutine.condition(model, data=values)).get_trace(*args)
    return model_trace.log_prob_sum(), guide_trace.log_prob_sum()


# Batches are unbiased.


@pytest.mark.parametrize("encoded", [True, False])
@pytest.mark.parametrize("model", [conjugate, positive])
def test_densities_of_batches_average_to_those_of_all_rows(model, encoded):
    part, whole = both(model, encoded, Y)
    with torch.no_grad():
        trace = poutine.trace(whole).get_trace(Y, N)
    x, u = (trace.nodes[f"_{whole._pyro_name}_{kind}"]["value"] for kind in ("globals", "rows"))

    def densities(guide, index, *args):
        drawn = {f"_{guide._pyro_name}_globals": x, f"_{guide._pyro_name}_rows": u[index]}
        return torch.stack(log_densities(model, guide, {"rows": index, **drawn}, Y, *args))

    exact = densities(whole, torch.arange(N), N)
    batches = [densities(part, index) for index in torch.arange(N).split(10)]
    torch.testing.assert_close(sum(batches) / 10, exact, rtol=1e-5, atol=1e-3)


def test_the_elbo_of_random_batches_is_that_of_all_rows():
    part, whole = both(positive, "encoded", Y)
    with torch.no_grad():  # narrow rows, so that the exponential of a draw has light tails
        part.row_posterior.transform.parts[-2].network.output.bias[4:] -= 3
    whole.load_state_dict(part.state_dict())
    elbo = Trace_ELBO(num_particles=20, vectorize_particles=True, max_plate_nesting=1)
    with torch.no_grad():
        batches = torch.tensor([elbo.loss(positive, part, Y) for _ in range(120)])
        full = torch.tensor([elbo.loss(positive, whole, Y, N) for _ in range(20)])
    error = (batches.var() / 120 + full.var() / 20).sqrt()
    assert abs(batches.mean() - full.mean()) < 4 * error
    assert error < 0.02 * full.mean().abs()


def test_guide_and_model_see_the_same_rows():
    guide = guide_of(encoded=False).setup(Y)
    trace = poutine.trace(guide).get_trace(Y)
    index = trace.nodes["rows"]["value"]
    replayed = poutine.trace(poutine.replay(conjugate, trace=trace)).get_trace(Y)
    assert torch.equal(replayed.nodes["y"]["value"], Y[index])
    assert replayed.nodes["z"]["scale"] == trace.nodes["z"]["scale"] == N / 10
    assert trace.nodes[f"_{guide._pyro_name}_rows"]["scale"] == N / 10


# The posterior.


def exact_posterior(y):
    precision = 1 + len(y) / 2
    mean, variance = y.sum() / 2 / precision, 1 / precision
    return mean, variance**0.5, (mean + y) / 2, (0.5 + variance / 4) ** 0.5


@pytest.mark.parametrize("encoded", [True, False])
def test_fit_finds_the_exact_posterior(encoded):
    guide = guide_of(encoded=encoded, global_flow=lambda dim: [], local_flow=None)
    with guide.path_gradients():
        fit = infer.fit_guide(
            conjugate,
            guide,
            Y,
            25,
            num_steps=300,
            num_particles=8,
            learning_rate=0.05,
            final_draws=200,
        )
    assert fit.particles == "plate"
    assert fit.skipped == 0
    low, middle, high = (
        {name: q[i] for name, q in guide.quantiles([0.1587, 0.5, 0.8413], Y, 25).items()}
        for i in range(3)
    )
    mean, sd, row_means, row_sd = exact_posterior(Y)
    assert middle["z"].shape == (N,)
    assert abs(middle["theta"] - mean) < 0.5 * sd
    assert abs((high["theta"] - low["theta"]) / 2 / sd - 1) < 0.1
    assert (middle["z"] - row_means).abs().max() < 0.25 * row_sd
    assert (((high["z"] - low["z"]) / 2 / row_sd - 1).abs() < 0.15).all()


def set_to_the_posterior(guide):
    """Sets the parameters at which a Gaussian guide is the posterior."""
    mean, sd, row_means, _ = exact_posterior(Y)
    with torch.no_grad():
        affine, rows = guide.posterior.affine, guide.row_posterior.transform.parts[0]
        affine.bias.copy_(mean)
        affine.log_scale.fill_(math.log(sd))
        # z | theta, y is N((theta + y) / 2, 1 / 2), and theta = mean + sd * w.
        rows.network.output.weight[0, 0] = sd / 2
        log_scale = math.log(0.5) / 2
        guide.features.values[:, 0] = row_means
        guide.features.values[:, 1] = log_scale / (1 + log_scale / Affine().max_log_scale)


def test_path_gradient_and_elbo_at_the_exact_posterior():
    guide = guide_of(encoded=False, global_flow=lambda dim: [], local_flow=None).setup(Y, N)
    set_to_the_posterior(guide)
    evidence = dist.MultivariateNormal(torch.zeros(N), 2 * torch.eye(N) + 1).log_prob(Y)
    elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    gradients = []
    for guide.path_gradient in (False, True):
        guide.zero_grad()
        loss = elbo.loss_and_grads(conjugate, guide, Y, N)
        found = [p.grad for p in guide.parameters() if p.grad is not None]
        gradients.append(sum(g.square().sum() for g in found))
        assert abs(-loss - evidence) < 1e-3
    assert gradients[1] < 1e-6 * gradients[0]


def _loss(guide, elbo, model=conjugate):
    guide.zero_grad()
    elbo.loss_and_grads(model, guide, Y)
    return torch.cat([p.grad.flatten() for p in guide.parameters() if p.grad is not None])


def test_path_gradient_has_the_mean_of_the_plain_one():
    guide = perturb(guide_of().setup(Y), 0.1)
    elbo = Trace_ELBO(num_particles=200, vectorize_particles=True, max_plate_nesting=1)
    means = []
    for path in (False, True):
        guide.path_gradient = path
        draws = torch.stack([_loss(guide, elbo) for _ in range(25)])
        means.append((draws.mean(0), draws.std(0) / 5))
    (plain, plain_se), (path, path_se) = means
    z = (plain - path) / (plain_se**2 + path_se**2).sqrt().clamp(min=1e-3)
    assert z.abs().max() < 6
    assert z.square().mean() < 2


def test_path_gradients_are_refused_under_importance_weights():
    guide = guide_of(path_gradient=True).setup(Y)
    with pytest.raises(ValueError, match="biased under RenyiELBO"):
        RenyiELBO(num_particles=2).loss_and_grads(conjugate, guide, Y)


# Shapes of models.


def test_vectorised_particles_score_as_single_ones():
    guide = perturb(guide_of(positive).setup(Y))
    with torch.no_grad(), pyro.plate("particles", 5, dim=-2):
        trace = poutine.trace(guide).get_trace(Y)
    assert trace.nodes["rate"]["value"].shape == (5, 10)
    assert trace.nodes["pair"]["value"].shape == (5, 10, 3)
    assert trace.nodes["loc"]["value"].shape == (5, 1, 2)
    trace.compute_log_prob()
    for i in range(5):
        values = {
            n: s["value"] if n == "rows" else s["value"][i].squeeze(0)
            for n, s in trace.nodes.items()
            if s.get("infer", {}).get("is_auxiliary") or n == "rows"
        }
        one = poutine.trace(poutine.condition(guide, data=values)).get_trace(Y)
        one.compute_log_prob()
        for name in ("rate", "share", "pair", "loc", "scale", *values):
            if name != "rows":
                ours = trace.nodes[name]["log_prob"][i].squeeze(0)
                torch.testing.assert_close(ours, one.nodes[name]["log_prob"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("encoded", [True, False])
def test_plates_inside_of_a_row(encoded):
    y = torch.randn(12, 3)
    guide = AutoAmortizedFlow(deep, plate="rows")
    if encoded:
        guide = AutoAmortizedFlow(deep, nn.Linear(3, 5), data=lambda index, y: y[index])
    drawn = guide(y)
    assert {n: tuple(v.shape) for n, v in drawn.items()} == {"sd": (2,), "a": (4, 1), "b": (4, 3)}
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=2)
    assert elbo.loss(deep, guide, y) > 0
    assert Pair(deep, guide, (y,), {}).particles == "plate"
    medians = guide.median(y, num_samples=20)
    assert {n: tuple(v.shape) for n, v in medians.items()} == {
        "sd": (2,),
        "a": (12, 1),
        "b": (12, 3),
    }


def test_rows_without_globals():
    def model(y):
        with pyro.plate("rows", len(y), subsample_size=5) as index:
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=y[index])

    guide = AutoAmortizedFlow(model, nn.Linear(1, 3), data=lambda index, y: y[index, None])
    assert guide(Y)["z"].shape == (5, 2)
    assert guide.latents is None
    assert guide.posterior is None
    assert guide.quantiles([0.1, 0.9], Y, num_samples=20)["z"].shape == (2, N, 2)
    svi = SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO(4, vectorize_particles=True))
    assert svi.step(Y) > 0


def test_discrete_sites_of_rows_are_summed_out():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y), subsample_size=5) as index:
            z = pyro.sample("z", dist.Normal(mean, 1.0))
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("y", dist.Normal(z + k, 1.0), obs=y[index])

    guide = AutoAmortizedFlow(poutine.block(model, hide=["k"]))
    elbo = TraceEnum_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    assert elbo.loss_and_grads(config_enumerate(model), guide, Y) > 0
    assert set(guide(Y)) == {"mean", "z"}


def test_rows_have_parameters_of_their_own_and_a_step_trains_those_it_sees():
    guide = guide_of(encoded=False).setup(Y)
    assert guide.num_rows == N
    assert guide.features.values.shape == (N, 2)
    Trace_ELBO().loss_and_grads(conjugate, guide, Y)
    assert (guide.features.values.grad != 0).any(1).sum() == 10


def test_expanded_bounds_are_one_support_and_bounds_of_rows_are_refused():
    def model(upper):
        with pyro.plate("rows", N, subsample_size=5) as index:
            pyro.sample("z", dist.Uniform(torch.zeros(()), upper[index]))

    assert (AutoAmortizedFlow(model)(torch.full((N,), 2.0))["z"] < 2).all()
    with pytest.raises(ValueError, match="'z' whose support .* differs between rows"):
        AutoAmortizedFlow(model).setup(1 + torch.rand(N))


def test_float64():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(y.new_zeros(()), 1.0))
        with pyro.plate("rows", len(y), subsample_size=5) as index:
            z = pyro.sample("z", dist.Normal(mean, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y[index])

    y = Y.double()
    guide = AutoAmortizedFlow(model, encoder(), data=lambda index, y: y[index, None].float())
    assert {v.dtype for v in guide(y).values()} == {torch.float64}
    assert {v.dtype for v in AutoAmortizedFlow(model)(y).values()} == {torch.float64}


def test_local_flows_by_name_and_by_factory():
    for flow in ("realnvp", "nsf", "maf", None, lambda d, c: flows.iaf(d, context_dim=c)):
        guide = guide_of(positive, local_flow=flow).setup(Y)
        assert Trace_ELBO().loss(positive, guide, Y) > 0
    with pytest.raises(ValueError, match="local flow of input_dim=2 and context_dim=0"):
        guide_of(positive, local_flow=lambda d, c: flows.iaf(2)).setup(Y)
    with pytest.raises(TypeError, match="local_flow of type int"):
        guide_of(positive, local_flow=3).setup(Y)


# A module among modules.


@pytest.mark.parametrize("encoded", [True, False])
def test_state_dict_goes_into_a_fresh_guide(encoded):
    guide = perturb(guide_of(positive, encoded=encoded).setup(Y))
    fresh = guide_of(positive, encoded=encoded).setup(Y)
    fresh.load_state_dict(guide.state_dict())
    copies = [fresh, copy.deepcopy(guide), pickle.loads(pickle.dumps(guide))]
    medians = []
    for one in [guide, *copies]:
        torch.manual_seed(3)
        medians.append(one.median(Y, num_samples=20)["rate"])
    assert all(torch.equal(medians[0], other) for other in medians[1:])
    assert guide.model is not None


def test_two_guides_share_no_parameters_in_the_store():
    first, second = guide_of().setup(Y), guide_of().setup(Y)
    first(Y), second(Y)
    names = list(pyro.get_param_store().keys())
    assert len({n.split(".")[0] for n in names}) >= 2
    assert all(p.requires_grad for p in first.parameters())
    kinds = {n.split("$$$")[0].split(".")[1] for n in names}
    assert kinds == {"posterior", "row_posterior", "features"}


def test_predictive_and_guide_lists():
    guide = guide_of().setup(Y)
    draws = Predictive(conjugate, guide=guide, num_samples=3)(Y)
    assert draws["z"].shape == (3, 10)
    together = AutoGuideList(conjugate)
    together.append(guide_of())
    assert together(Y)["z"].shape == (10,)
    assert Trace_ELBO().loss(conjugate, together, Y) > 0
