"""NeuTra: the reparameterised model, its density, and the way back."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import (
    AutoContinuous,
    AutoDelta,
    AutoGuideList,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch.distributions import constraints

from pyro_nf.infer._log_joint import LogJoint
from pyro_nf.infer.autoguide import AutoFlow
from pyro_nf.infer.neutra import neutra

torch.set_num_threads(1)


def model(y):
    loc = pyro.sample("loc", dist.Normal(torch.zeros((), dtype=y.dtype), 2.0))
    with pyro.plate("groups", 3):
        effect = pyro.sample("effect", dist.LogNormal(loc, 1.0))
        pyro.sample("y", dist.Normal(effect, 1.0), obs=y)


Y = torch.tensor([1.0, 0.5, 2.0])


def perturbed_guide(dtype=torch.float32):
    torch.manual_seed(0)
    guide = AutoFlow(model, init_scale=0.7).setup(Y.to(dtype))
    with torch.no_grad():
        for parameter in guide.posterior.transform[0].parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return guide


class Funnel(dist.transforms.Transform):
    """From a standard normal to Neal's funnel."""

    domain = codomain = constraints.real_vector
    bijective = True

    def _call(self, x):
        neck = 3 * x[..., :1]
        return torch.cat([neck, (neck / 2).exp() * x[..., 1:]], -1)

    def _inverse(self, y):
        return torch.cat([y[..., :1] / 3, (-y[..., :1] / 2).exp() * y[..., 1:]], -1)

    def log_abs_det_jacobian(self, x, y):
        return math.log(3) + (x.shape[-1] - 1) * y[..., 0] / 2


def funnel():
    neck = pyro.sample("neck", dist.Normal(0.0, 3.0))
    pyro.sample("rest", dist.Normal(torch.zeros(4), (neck / 2).exp()).to_event(1))


def divergences(mcmc):
    return sum(len(found) for found in mcmc.diagnostics()["divergences"].values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_density_is_the_models_in_the_bases_coordinates(dtype):
    guide, y = perturbed_guide(dtype), Y.to(dtype)
    transformed = neutra(model, guide)
    log_joint = LogJoint(model, (y,), {}, guide.latents)
    for z in torch.randn(5, 4, dtype=dtype):
        conditioned = poutine.condition(transformed, data={transformed.site: z})
        found = poutine.trace(conditioned).get_trace(y).log_prob_sum()
        x, ladj = guide.get_transform().forward_and_ladj(z)
        torch.testing.assert_close(found, log_joint(x[None])[0] + ladj, rtol=1e-4, atol=1e-4)
        assert found.dtype == dtype


def test_the_flow_is_frozen_while_it_serves():
    guide = perturbed_guide()
    flags = [p.requires_grad for p in guide.parameters()]
    transformed = neutra(model, guide.train())
    z = torch.randn(4, requires_grad=True)
    trace = poutine.trace(poutine.condition(transformed, data={transformed.site: z})).get_trace(Y)
    trained = [p for p in guide.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(trace.log_prob_sum(), [z, *trained], allow_unused=True)
    assert bool(gradients[0].isfinite().all())
    assert all(gradient is None for gradient in gradients[1:])
    assert [p.requires_grad for p in guide.parameters()] == flags
    assert guide.training


def test_the_way_back():
    guide = perturbed_guide()
    transformed = neutra(model, guide)
    z = torch.randn(2, 7, 4)  # chains, draws
    samples = transformed.samples({transformed.site: z})
    assert {name: value.shape for name, value in samples.items()} == {
        "loc": (2, 7),
        "effect": (2, 7, 3),
    }
    expected, _ = guide.latents.constrain(guide.get_transform()(z[1, 3]))
    assert not samples["loc"].requires_grad
    for name, value in expected.items():
        torch.testing.assert_close(samples[name][1, 3], value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(transformed.samples(z)[name], samples[name])
    with pytest.raises(ValueError, match="not of 'loc_shared_latent'"):
        transformed.samples({"loc": z})


def test_first_states():
    transformed = neutra(model, perturbed_guide())
    assert transformed.initial_params()["loc_shared_latent"].shape == (4,)
    assert transformed.initial_params(3)["loc_shared_latent"].shape == (3, 4)
    with pytest.raises(ValueError, match="num_chains=0"):
        transformed.initial_params(0)


class ExactFunnelGuide(AutoContinuous):
    def get_base_dist(self):
        return dist.Normal(torch.zeros(5), 1.0).to_event(1)

    def get_transform(self):
        return Funnel()


def test_nuts_crosses_a_funnel_without_divergences():
    guide = ExactFunnelGuide(funnel)
    guide()
    transformed = neutra(funnel, guide)
    kernel = NUTS(transformed, adapt_mass_matrix=False, max_tree_depth=4)
    initial = transformed.initial_params()
    mcmc = MCMC(kernel, 150, warmup_steps=40, initial_params=initial, disable_progbar=True)
    mcmc.run()
    assert divergences(mcmc) == 0
    neck = transformed.samples(mcmc.get_samples())["neck"]
    assert float(neck.std()) == pytest.approx(3, rel=0.25)
    assert float(neck.mean()) == pytest.approx(0, abs=0.8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nuts_runs_on_a_flow_guide(dtype):
    y = Y.to(dtype)
    transformed = neutra(model, AutoFlow(model, flow="nice", init_scale=0.7).setup(y))
    initial = transformed.initial_params()
    kernel = NUTS(transformed, max_tree_depth=3)
    mcmc = MCMC(kernel, 6, warmup_steps=6, initial_params=initial, disable_progbar=True)
    mcmc.run(y)
    samples = transformed.samples(mcmc.get_samples())
    assert samples["effect"].shape == (6, 3)
    assert samples["effect"].dtype == dtype
    assert bool((samples["effect"] > 0).all())
    assert len(samples["loc"].unique()) > 3


def test_pyros_own_guides_serve():
    guide = AutoMultivariateNormal(model, init_scale=0.5)
    guide(Y)
    transformed = neutra(model, guide)
    z = torch.randn(4)
    trace = poutine.trace(poutine.condition(transformed, data={transformed.site: z})).get_trace(Y)
    assert bool(trace.log_prob_sum().isfinite())
    assert transformed.samples(z[None])["effect"].shape == (1, 3)


def test_guides_without_one_transform_are_refused():
    parts = AutoGuideList(model)
    parts.append(AutoDelta(poutine.block(model, expose=["loc"])))
    for guide in (AutoNormal(model), parts, model):
        with pytest.raises(TypeError, match="Pass an AutoContinuous"):
            neutra(model, guide)


def test_a_guide_without_parameters_is_refused():
    with pytest.raises(ValueError, match="has not seen the model's arguments"):
        neutra(model, AutoFlow(model))
