"""The importance-weighted ELBO: bound, mean and variance of its gradients, what it refuses."""

from __future__ import annotations

import math

import guide_models as models
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, RenyiELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import nn

from pyro_nf import flows
from pyro_nf.infer import fit_guide
from pyro_nf.infer.autoguide import AutoFlow
from pyro_nf.infer.iwelbo import IWELBO

Y = torch.tensor([0.5, 1.5])  # under models.conjugate the posterior of the mean is N(2/3, 1/3)


def normal_guide(loc, scale):
    def guide(y):
        where = pyro.param("loc", torch.tensor(loc))
        wide = pyro.param("scale", torch.tensor(scale), constraint=dist.constraints.positive)
        pyro.sample("mean", dist.Normal(where, wide))

    return guide


# The bound.


def test_bound_rises_with_the_number_of_draws_to_the_evidence():
    guide = normal_guide(0.0, 0.9)
    options = {"replicates": 2000, "vectorize_particles": True, "max_plate_nesting": 1}
    bounds = [-IWELBO(k, **options).loss(models.conjugate, guide, Y) for k in (1, 4, 32)]
    evidence = models.conjugate_log_evidence(Y)
    assert bounds[0] + 0.05 < bounds[1] < bounds[2] + 0.02
    assert bounds[2] == pytest.approx(evidence, abs=0.03)


def test_loss_is_the_evidence_where_the_guide_is_exact():
    guide = normal_guide(2 / 3, 3**-0.5)
    for vectorize in (True, False):
        elbo = IWELBO(4, vectorize_particles=vectorize, max_plate_nesting=1)
        loss = elbo.loss(models.conjugate, guide, Y)
        assert -loss == pytest.approx(models.conjugate_log_evidence(Y), abs=1e-4)
        assert elbo.loss_and_grads(models.conjugate, guide, Y) == pytest.approx(loss, abs=1e-4)


def test_plate_around_all_sites_gives_each_row_its_own_weights():
    def model(y):
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    def guide(y):
        with pyro.plate("data", len(y)):
            pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))

    y = torch.tensor([0.0, 1.0, 2.0])
    options = {"vectorize_particles": True, "max_plate_nesting": 1}
    pyro.set_rng_seed(1)
    ours = IWELBO(5, **options).loss(model, guide, y)
    pyro.set_rng_seed(1)
    assert ours == pytest.approx(RenyiELBO(num_particles=5, **options).loss(model, guide, y))


def test_guide_outside_of_the_models_plate_has_one_weight_for_all_rows():
    """An autoguide's vector lies in no plate, even where all of the model's sites do."""

    def model(y):
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    y = torch.tensor([0.0, 1.0, 2.0])
    guide = AutoMultivariateNormal(model, init_scale=0.5**0.5)
    guide(y)
    guide.loc.data = y / 2
    evidence = float(dist.Normal(0.0, 2**0.5).log_prob(y).sum())
    for vectorize in (True, False):
        elbo = IWELBO(4, vectorize_particles=vectorize, max_plate_nesting=1)
        assert -elbo.loss(model, guide, y) == pytest.approx(evidence, abs=1e-4)


def test_minibatch_plate_around_all_sites_is_scaled_outside_of_the_logarithm():
    y = torch.ones(6)

    def model(y, shown=None):
        with pyro.plate("data", 6, subsample_size=shown) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y[rows])

    def guide(y, shown=None):
        with pyro.plate("data", 6, subsample_size=shown):
            pyro.sample("z", dist.Normal(0.4, 1.0))

    options = {"replicates": 4000, "vectorize_particles": True, "max_plate_nesting": 1}
    whole = IWELBO(4, **options).loss(model, guide, y)
    part = IWELBO(4, **options).loss(model, guide, y, 2)
    assert part == pytest.approx(whole, abs=0.05)


# Where it is used.


def test_model_that_sums_over_particles_is_run_draw_by_draw():
    guide = AutoNormal(models.sums_over_particles)
    guide(torch.tensor(1.0))
    elbo = IWELBO(3)
    elbo.loss(models.sums_over_particles, guide, torch.tensor(1.0))
    assert not elbo.vectorize_particles


def test_encoder_flow_and_decoder_all_receive_gradients():
    """A variational autoencoder: q(z | x) by an autoregressive flow, each row weighed alone."""
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(5, 3), nn.Linear(2, 5)
    posterior = flows.iaf(2, context_dim=3, transforms=2, hidden_dims=(8,))
    with torch.no_grad():
        for p in posterior.parameters():
            p.add_(0.1 * torch.randn_like(p))

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        pyro.module("posterior", posterior)
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(encoder(x)))

    x = torch.randn(7, 5)
    elbo = IWELBO(6, vectorize_particles=True, max_plate_nesting=1)
    assert math.isfinite(elbo.loss_and_grads(model, guide, x))
    without = []
    for module in (encoder, posterior, decoder):
        for name, p in module.named_parameters():
            without += [name] if p.grad is None else []
            assert p.grad is None or p.grad.isfinite().all()
    assert without == ["transform.parts.2.center"]  # set from data, never trained
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), elbo)
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])


def test_fit_guide_takes_it():
    guide = AutoFlow(models.conjugate, flow="nice", init_scale=0.5)
    elbo = IWELBO(4, replicates=8, vectorize_particles=True, max_plate_nesting=1)
    options = {"num_steps": 60, "starts": 0, "learning_rate": 0.05, "final_draws": 2000}
    fit = fit_guide(models.conjugate, guide, Y, elbo=elbo, **options)
    assert fit.log_evidence == pytest.approx(models.conjugate_log_evidence(Y), abs=0.05)
    assert fit.elbo > fit.log_evidence - 0.1


def test_differentiable_loss_serves_torchs_optimisers():
    guide = AutoNormal(models.conjugate)
    guide(Y)
    loss = IWELBO(4, vectorize_particles=True, max_plate_nesting=1).differentiable_loss(
        models.conjugate, guide, Y
    )
    loss.backward()
    assert loss.shape == ()
    assert all(p.grad is not None for p in guide.parameters())


# What it refuses.


def test_refuses_draws_without_gradients():
    def model():
        pyro.sample("k", dist.Bernoulli(0.3))

    for gradient in ("standard", "doubly_reparameterized"):
        elbo = IWELBO(2, gradient=gradient, vectorize_particles=False)
        with pytest.raises(ValueError, match="'k'.*carry no gradient.*TraceEnum_ELBO"):
            elbo.loss_and_grads(model, model)


def test_refuses_latents_that_the_guide_leaves_out():
    def model():
        pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("b", dist.Normal(0.0, 1.0))

    def guide():
        pyro.sample("a", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    with (
        pyro.validation_enabled(False),  # noqa: FBT003  (Pyro's signature)
        pytest.raises(ValueError, match="without the model's latent b"),
    ):
        IWELBO(2, vectorize_particles=False).loss_and_grads(model, guide)


def test_refuses_path_gradients_under_the_standard_estimator():
    guide = AutoFlow(models.conjugate, flow="nice", path_gradient=True).setup(Y)
    elbo = IWELBO(4, gradient="standard", vectorize_particles=False)
    with pytest.raises(ValueError, match="path gradients.*biased"):
        elbo.loss_and_grads(models.conjugate, guide, Y)
    doubly = IWELBO(4, vectorize_particles=False)
    assert math.isfinite(doubly.loss_and_grads(models.conjugate, guide, Y))


def test_refuses_a_minibatch_beside_global_latents():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y), subsample_size=1) as rows:
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y[rows])

    elbo = IWELBO(4, vectorize_particles=False)
    with pytest.raises(ValueError, match="'data'.*1 of 2 rows"):
        elbo.loss_and_grads(model, normal_guide(0.0, 1.0), Y)


def test_refuses_a_guide_with_noise_of_its_own():
    net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def guide(y):
        pyro.module("net", net)
        pyro.sample("mean", dist.Normal(net(y).squeeze(-1), 0.1))

    elbo = IWELBO(8, vectorize_particles=False)
    with pytest.raises(ValueError, match="'mean' otherwise.*dropout"):
        elbo.loss_and_grads(models.conjugate, guide, Y)
    net.eval()
    assert math.isfinite(elbo.loss_and_grads(models.conjugate, guide, Y))


def test_refuses_options_that_do_not_fit():
    with pytest.raises(ValueError, match="IWELBO got num_particles=0"):
        IWELBO(0)
    with pytest.raises(ValueError, match="IWELBO got gradient='dreg'"):
        IWELBO(2, gradient="dreg")
