"""What a user gets wrong about models and guides: each a sentence of fact and one of remedy."""

from __future__ import annotations

import guide_models as models
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, TraceMeanField_ELBO
from torch.distributions import constraints

from pyro_nf import flows, infer
from pyro_nf.infer.autoguide import AutoFlow


def test_no_latents():
    def model():
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.tensor(1.0))

    with pytest.raises(ValueError, match=r"no continuous latent.*empty guide"):
        AutoFlow(model).setup()


def test_only_discrete_latents():
    def model():
        pyro.sample("k", dist.Categorical(torch.ones(3)))

    with pytest.raises(ValueError, match=r"discrete site 'k'.*poutine.block"):
        AutoFlow(model).setup()


def test_a_support_without_a_bijection():
    class Odd(constraints.Constraint):
        def check(self, value):
            return value == value

    class OddNormal(dist.Normal):
        support = Odd()

    def model():
        pyro.sample("z", OddNormal(0.0, 1.0))

    def start(site):
        return torch.zeros(site["fn"].shape())

    with pytest.raises(ValueError, match=r"site 'z' with support.*biject_to.register"):
        AutoFlow(model, init_loc_fn=start).setup()


def test_an_angle():
    """Its density repeats over the real line: the ELBO would grow with the guide's scale."""

    def model():
        pyro.sample("angle", dist.VonMises(0.0, 1.0).expand([2]).to_event(1))

    with pytest.raises(ValueError, match=r"angle 'angle'.*Uniform"):
        AutoFlow(model).setup()


def test_a_bound_that_depends_on_another_latent():
    """Pyro freezes it at its first value: α + β came out above 1 where β < 1 - α."""

    def model():
        a = pyro.sample("a", dist.Uniform(0.0, 1.0))
        pyro.sample("b", dist.Uniform(0.0, 1.0 - a))

    with pytest.raises(ValueError, match=r"support of site 'b'.*factor"):
        AutoFlow(model).setup()


def test_a_shape_that_depends_on_another_latent():
    def model():
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("b", dist.Normal(0.0, 1.0).expand([2 if float(a) == 0 else 3]).to_event(1))

    with pytest.raises(ValueError, match=r"'b' had shape \(2,\) and then \(3,\)"):
        AutoFlow(model).setup()


def test_a_site_that_comes_and_goes():
    def model():
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        if float(a) == 0:
            pyro.sample("b", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"b came and went"):
        AutoFlow(model).setup()


def test_a_subsampled_plate_of_latents():
    def model():
        with pyro.plate("data", 100, subsample_size=10):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"'z' in plate 'data'.*10 of 100.*AutoAmortizedFlow"):
        AutoFlow(model).setup()


def test_a_sequential_plate():
    def model():
        for i in pyro.plate("steps", 2):
            pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"'z0' inside of the sequential plate 'steps'"):
        AutoFlow(model).setup()


def test_a_density_that_is_not_finite():
    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("broken", torch.tensor(float("nan")))

    with pytest.raises(ValueError, match=r"no finite density at any of 4.*broken.*init_loc_fn"):
        infer.fit_guide(model, AutoFlow(model), progress=False)


def test_mean_field_elbo_drops_a_jacobian():
    """Measured: the exact guide of two log-normals does not get its log evidence, 0, by it."""
    guide = AutoFlow(models.positive).setup()
    loc, scale = torch.tensor([0.5, -1.0]), 0.5 * torch.eye(2)
    guide.posterior.whitening.move(loc, scale)
    wrong = TraceMeanField_ELBO(num_particles=200, vectorize_particles=True, max_plate_nesting=0)
    assert abs(wrong.loss(models.positive, guide)) > 0.1
    with pytest.raises(ValueError, match=r"TraceMeanField_ELBO, which drops the Jacobian"):
        infer.fit_guide(models.positive, guide, elbo=wrong)


def test_a_path_gradient_under_importance_weights():
    guide = AutoFlow(models.positive, path_gradient=True).setup()
    elbo = RenyiELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=0)
    with pytest.raises(ValueError, match=r"biased under RenyiELBO.*IWELBO"):
        elbo.loss_and_grads(models.positive, guide)


def test_a_latent_that_no_guide_covers():
    def model():
        pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("b", dist.Normal(0.0, 1.0))

    guide = AutoFlow(pyro.poutine.block(model, hide=["b"]))
    with pytest.raises(ValueError, match=r"latent site 'b' is not covered"):
        infer.fit_guide(model, guide)


Y = torch.ones(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps=0"),
        ({"num_particles": -1}, "num_particles=-1"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"starts": -1}, "starts=-1"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"annealing": True, "starts": 0}, "annealing with starts=0"),
        ({"resume": True}, "resume=True without a checkpoint"),
        ({"restarts": 2, "checkpoint": "x"}, "restarts=2"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        infer.fit_guide(models.conjugate, AutoFlow(models.conjugate), Y, **options)


def test_types():
    with pytest.raises(TypeError, match="a model of type int"):
        infer.fit_guide(3, AutoFlow(models.conjugate), Y)
    with pytest.raises(TypeError, match="a guide of type str"):
        infer.fit_guide(models.conjugate, "guide", Y)
    with pytest.raises(TypeError, match="an elbo of type str"):
        infer.fit_guide(models.conjugate, AutoFlow(models.conjugate), Y, elbo="elbo")
    with pytest.raises(ValueError, match="above 1"):
        infer.Annealing(inflation=0.5)
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        infer.Annealing(share=2.0)


def test_targets():
    with pytest.raises(TypeError, match="flow of type"):
        infer.fit_target(torch.nn.Linear(2, 2), lambda z: z.sum(-1))
    with pytest.raises(ValueError, match="without context"):
        infer.fit_target(flows.realnvp(2, context_dim=1), lambda z: z.sum(-1))
    with pytest.raises(ValueError, match=r"maps shape \(2, 2\) to \(2, 2\)"):
        infer.fit_target(flows.realnvp(2), lambda z: z)
    with pytest.raises(ValueError, match=r"init_loc of shape \(3,\)"):
        infer.fit_target(flows.realnvp(2), lambda z: z.sum(-1), init_loc=torch.zeros(3))
