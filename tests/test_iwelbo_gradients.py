"""The gradient of the importance-weighted ELBO: its mean is the plain one's, its variance not."""

from __future__ import annotations

import math

import guide_models as models
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

from pyro_nf.infer.autoguide import AutoFlow
from pyro_nf.infer.iwelbo import IWELBO

Y = torch.tensor([0.5, 1.5])  # under models.conjugate the posterior of the mean is N(2/3, 1/3)


def normal_guide(loc, scale):
    def guide(y):
        where = pyro.param("loc", torch.tensor(loc))
        wide = pyro.param("scale", torch.tensor(scale), constraint=dist.constraints.positive)
        pyro.sample("mean", dist.Normal(where, wide))

    return guide


def gradients(elbo, model, guide, args, repeats):
    """Gradients of all parameters in the store, ``(repeats, P)``."""
    rows = []
    for _ in range(repeats):
        elbo.loss_and_grads(model, guide, *args)
        named = sorted(pyro.get_param_store().named_parameters())
        rows.append(torch.cat([p.grad.reshape(-1).clone() for _, p in named]))
        for _, p in named:
            p.grad = None
    return torch.stack(rows)


def assert_same_mean(model, guide, args=(), samples=8, repeats=12, nesting=1):
    """The doubly reparameterised gradient has the standard one's mean, within its error."""
    options = {"replicates": 500, "vectorize_particles": True, "max_plate_nesting": nesting}
    means = []
    for gradient in ("standard", "doubly_reparameterized"):
        elbo = IWELBO(samples, gradient=gradient, **options)
        rows = gradients(elbo, model, guide, args, repeats)
        means.append((rows.mean(0), rows.var(0) / repeats))
    (a, a_var), (b, b_var) = means
    error = (a_var + b_var).sqrt()
    assert ((a - b).abs() < 5 * error + 1e-5).all(), (a, b, error)
    assert (error < 0.05).all(), error
    return a, b


def test_gradient_has_the_standard_mean():
    assert_same_mean(models.conjugate, normal_guide(0.3, 0.8), (Y,))


def test_gradient_of_the_models_parameters_keeps_its_mean():
    def model(y):
        shift = pyro.param("shift", torch.tensor(0.3))
        z = pyro.sample("mean", dist.Normal(shift, 1.0))
        pyro.sample("y", dist.Normal((z * shift)[..., None], torch.ones(2)).to_event(1), obs=y)

    a, _ = assert_same_mean(model, normal_guide(0.3, 0.8), (Y,), nesting=0)
    assert (a.abs() > 0.05).any()


def test_gradient_through_draws_that_depend_on_draws_keeps_its_mean():
    def model(y):
        a = pyro.sample("a", dist.Normal(torch.zeros(()), 1.0))
        b = pyro.sample("b", dist.Normal(a, 1.0))
        pyro.sample("y", dist.Normal(b, 0.5), obs=y)

    def guide(y):
        slope = pyro.param("slope", torch.tensor(0.5))
        a = pyro.sample("a", dist.Normal(pyro.param("loc", torch.tensor(0.2)), 0.8))
        pyro.sample("b", dist.Normal(slope * a + 0.4, 0.6))

    assert_same_mean(model, guide, (torch.tensor(1.0),), nesting=0)


def test_gradient_of_a_point_in_the_guide_keeps_its_mean():
    """The parameter of a ``Delta`` is no draw: its gradient is weighed once, not twice."""

    def model(y):
        a = pyro.sample("a", dist.Normal(torch.zeros(()), 1.0))
        mean = pyro.sample("mean", dist.Normal(a, 1.0))
        pyro.sample("y", dist.Normal(mean[..., None], torch.ones(2)).to_event(1), obs=y)

    normal = normal_guide(0.3, 0.8)

    def guide(y):
        normal(y)
        pyro.sample("a", dist.Delta(pyro.param("point", torch.tensor(-0.3))))

    assert_same_mean(model, guide, (Y,), nesting=0)


def test_gradient_of_an_autoguide_with_constrained_sites_keeps_its_mean():
    def model(y):
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros(()), 0.5))
        pyro.sample("y", dist.Normal(0.0, scale), obs=y)

    guide = AutoNormal(model, init_scale=0.4)
    guide(torch.tensor(1.0))
    assert_same_mean(model, guide, (torch.tensor(1.0),), nesting=0)


def test_standard_gradient_is_pyros():
    guide = normal_guide(0.3, 0.8)
    options = {"vectorize_particles": True, "max_plate_nesting": 1}
    rows = []
    for elbo in (IWELBO(8, gradient="standard", **options), RenyiELBO(num_particles=8, **options)):
        pyro.set_rng_seed(3)
        rows.append(gradients(elbo, models.conjugate, guide, (Y,), 3))
    torch.testing.assert_close(*rows, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("vectorize", [True, False])
def test_gradient_vanishes_where_the_guide_is_exact(vectorize):
    guide = normal_guide(2 / 3, 3**-0.5)
    options = {"vectorize_particles": vectorize, "max_plate_nesting": 1}
    ours = gradients(IWELBO(8, **options), models.conjugate, guide, (Y,), 10)
    plain = IWELBO(8, gradient="standard", **options)
    standard = gradients(plain, models.conjugate, guide, (Y,), 10)
    assert ours.var(0).max() < 1e-6 * standard.var(0).min()


def test_one_draw_gives_the_path_gradient():
    guide = AutoFlow(models.conjugate, flow="nice", init_scale=0.5).setup(Y)
    path = AutoFlow(models.conjugate, flow="nice", init_scale=0.5, path_gradient=True).setup(Y)
    path.load_state_dict(guide.state_dict())
    found = []
    for elbo, one in ((IWELBO(1), guide), (Trace_ELBO(), path)):
        elbo.loss(models.conjugate, one, Y)  # what is set up at first draws, too
        pyro.set_rng_seed(5)
        elbo.loss_and_grads(models.conjugate, one, Y)
        found.append([p.grad for p in one.posterior.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 0
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_loop_and_plate_have_one_mean():
    guide = normal_guide(0.3, 0.8)
    loop = IWELBO(4, vectorize_particles=False)
    plate = IWELBO(4, replicates=2000, vectorize_particles=True, max_plate_nesting=1)
    a = gradients(loop, models.conjugate, guide, (Y,), 200)
    b = gradients(plate, models.conjugate, guide, (Y,), 3)
    error = a.std(0) / math.sqrt(len(a))
    assert ((a.mean(0) - b.mean(0)).abs() < 5 * error).all()
