"""Flows as posteriors and priors of variational autoencoders: exact, one pass, and an example."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import perturb
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from examples import vae as example

torch.set_num_threads(1)

PIXELS, Z_DIM, IMAGES = 16, 3, 5
FLOWS = [name for name in example.POSTERIORS if name != "Gaussian"]


def make(posterior="Gaussian", prior="normal", seed=0):
    """A VAE in float64 whose posterior and prior are far from where they start."""
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    parts = example.POSTERIORS[posterior](Z_DIM), example.PRIORS[prior](Z_DIM)
    made = example.VAE(PIXELS, Z_DIM, 8, *parts).double().eval()
    perturb(made.posterior, 0.1)
    perturb(made.prior, 0.3)
    return made


def some_images():
    return torch.randint(0, 2, (IMAGES, PIXELS)).double()


@pytest.fixture
def passes(monkeypatch):
    """Counts the passes of every layer of a flow, by direction."""
    counts = {"forward": 0, "inverse": 0}

    def count(flow):
        parts = list(flow.transform.parts)
        for part in parts:
            for name in counts:
                method = getattr(part, f"{name}_and_ladj")

                def counted(*args, method=method, name=name, **kwargs):
                    counts[name] += 1
                    return method(*args, **kwargs)

                monkeypatch.setattr(part, f"{name}_and_ladj", counted)
        return len(parts)

    count.counts = counts
    return count


@pytest.mark.parametrize("posterior", FLOWS)
def test_posterior_draws_and_scores_in_one_pass_of_svi(posterior, passes):
    vae, images = make(posterior), some_images()
    layers = passes(vae.posterior)
    Trace_ELBO().differentiable_loss(vae.model, vae.guide, images)
    assert passes.counts == {"forward": layers, "inverse": 0}


@pytest.mark.parametrize("posterior", FLOWS)
def test_importance_weights_take_one_pass_for_all_draws(posterior, passes):
    vae, images = make(posterior), some_images()
    layers = passes(vae.posterior)
    assert vae.log_weights(images, 7).shape == (7, IMAGES)
    assert passes.counts == {"forward": layers, "inverse": 0}


def test_flow_prior_scores_the_guides_draw_in_one_pass(passes):
    vae, images = make("IAF", "Real NVP"), some_images()
    layers = passes(vae.prior)
    Trace_ELBO().differentiable_loss(vae.model, vae.guide, images)
    assert passes.counts == {"forward": 0, "inverse": layers}


@pytest.mark.parametrize(("posterior", "prior"), example.MODELS)
def test_density_of_a_draw_is_that_of_the_same_value_observed(posterior, prior):
    vae, images = make(posterior, prior), some_images()
    trace = poutine.trace(vae.guide).get_trace(images)
    joint = poutine.trace(poutine.replay(vae.model, trace)).get_trace(images)
    z = trace.nodes["z"]["value"].detach()  # not the draw itself: nothing is reused
    log_q = vae.posterior(vae.encoder(images)).log_prob(z)
    log_p = vae.prior().log_prob(z) + vae.likelihood(z).log_prob(images)
    assert log_q.sum().item() == pytest.approx(trace.log_prob_sum().item(), abs=1e-6)
    assert log_p.sum().item() == pytest.approx(joint.log_prob_sum().item(), abs=1e-9)


@pytest.mark.parametrize(("posterior", "prior"), example.MODELS)
def test_mean_weight_is_pyros_elbo(posterior, prior):
    vae, images = make(posterior, prior), some_images()
    weights = vae.log_weights(images, 2000).sum(1)
    elbo = Trace_ELBO(num_particles=1000, vectorize_particles=True, max_plate_nesting=1)
    loss = elbo.loss(vae.model, vae.guide, images)
    error = weights.std() * math.sqrt(1 / 2000 + 1 / 1000)
    assert weights.mean().item() == pytest.approx(-loss, abs=4 * error.item())


@pytest.mark.parametrize(("posterior", "prior"), example.MODELS)
def test_svi_reaches_every_part(posterior, prior):
    vae, images = make(posterior, prior), some_images()
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    svi = SVI(vae.model, vae.guide, pyro.optim.ClippedAdam({"lr": 1e-3}), Trace_ELBO())
    for _ in range(3):
        assert math.isfinite(svi.step(images))
    still = [name for name, p in vae.named_parameters() if torch.equal(p, before[name])]
    assert all(name.endswith("center") for name in still), still  # never trained


@pytest.mark.parametrize("posterior", FLOWS)
def test_encoders_gradient_is_that_of_the_density(posterior):
    vae, images = make(posterior), some_images()
    gradients = []
    for reuse in (True, False):
        pyro.set_rng_seed(3)
        q = vae.posterior(vae.encoder(images))
        z = q.rsample()
        log_weight = vae.likelihood(z).log_prob(images) - q.log_prob(z, reuse=reuse)
        gradients.append(torch.autograd.grad(log_weight.sum(), list(vae.encoder.parameters())))
    for remembered, inverted in zip(*gradients, strict=True):
        assert torch.allclose(remembered, inverted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("posterior", FLOWS)
def test_fresh_flow_is_its_gaussian_base(posterior):
    flow = example.POSTERIORS[posterior](Z_DIM).double()
    context = torch.randn(IMAGES, example.CONTEXT_DIM, dtype=torch.float64)
    nn.init.normal_(flow.base.from_context.weight, std=0.1)
    z = flow.base(context).sample()
    assert torch.allclose(flow(context).log_prob(z), flow.base(context).log_prob(z))


@pytest.mark.parametrize("posterior", example.POSTERIORS)
def test_score_brackets_a_known_evidence(posterior, monkeypatch):
    vae, images = make(posterior).float(), some_images()
    matrix = torch.linspace(-1, 1, PIXELS * Z_DIM).cos().view(PIXELS, Z_DIM)
    monkeypatch.setattr(vae, "likelihood", lambda z: dist.Normal(z @ matrix.T, 2.0).to_event(1))
    covariance = matrix @ matrix.T + 4 * torch.eye(PIXELS)
    evidence = dist.MultivariateNormal(torch.zeros(PIXELS), covariance)
    truth = evidence.log_prob(images.float())
    elbo, log_likelihood = example.score(vae, images, 20_000)
    assert (elbo < truth).all()
    assert torch.allclose(log_likelihood, truth, atol=0.05)


def test_example_reads_packed_images(tmp_path):
    images = np.random.default_rng(0).integers(0, 2, (6, 16), dtype=np.uint8)
    packed = np.packbits(images, axis=1)
    np.savez(tmp_path / "images.npz", train=packed[:4], test=packed[4:])
    train, test = example.load(tmp_path / "images.npz", 0)
    assert np.array_equal(train, images[:4])
    assert np.array_equal(test, images[4:])


def test_folds_of_the_digits_are_disjoint():
    train, test = example.load(None, 0)
    others = [example.load(None, run)[1] for run in range(1, example.FOLDS)]
    assert len(train) == sum(map(len, others))
    assert len(train) + len(test) == 1797
    assert set(test.unique().tolist()) == {0, 1}
