"""Wrong numbers and lost results that were once possible, each seen before it was mended."""

from __future__ import annotations

import math
import pickle

import guide_models as models
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoLaplaceApproximation

from pyro_nf import infer
from pyro_nf.infer._log_joint import LogJoint
from pyro_nf.infer._recipe import recipe
from pyro_nf.infer.autoguide import AutoFlow

FAST = {"starts": 1, "num_particles": 8, "final_draws": 100, "progress": False}


@pytest.fixture(autouse=True)
def _fresh():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


def test_a_scale_multiplies_the_logarithm_of_a_sum():
    y = torch.tensor([-2.0, 2.0, 2.1, -1.9, 0.5, 3.0])

    def model():
        m = pyro.sample("m", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(y)), poutine.scale(scale=2.0):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("y", dist.Normal(m * (2 * z - 1), 1.0), obs=y)

    guide = AutoFlow(poutine.block(model, hide=["z"])).setup()
    m = torch.tensor([[1.5], [0.3]])
    terms = torch.logaddexp(
        math.log(0.3) + dist.Normal(m, 1.0).log_prob(y),
        math.log(0.7) + dist.Normal(-m, 1.0).log_prob(y),
    )
    expected = dist.Normal(0.0, 3.0).log_prob(m).squeeze(-1) + 2 * terms.sum(-1)
    for particles in ("plate", "loop"):
        log_joint = LogJoint(model, (), {}, guide.latents, particles)
        torch.testing.assert_close(log_joint(m), expected)


def test_a_wrong_site_shows_beside_much_data():
    y = torch.randn(100_000)

    def model():
        b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("c", dist.Normal(b.sum(), 1.0), obs=torch.tensor(1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(b[..., 0], 1.0), obs=y)

    guide = AutoFlow(model).setup()
    assert LogJoint(model, (), {}, guide.latents).particles == "vmap"


def test_a_discrete_site_without_finite_support():
    def model():
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        k = pyro.sample("k", dist.Poisson(rate))
        pyro.sample("y", dist.Normal(k, 1.0), obs=torch.tensor(3.0))

    guide = AutoFlow(poutine.block(model, hide=["k"])).setup()
    with pytest.raises(ValueError, match=r"'k' \(Poisson\) has no finite support"):
        LogJoint(model, (), {}, guide.latents)


def test_a_model_that_fails_at_some_draws_is_measured():
    def model():
        x = pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        if bool((x[..., 0] > 2.0).any()):
            torch.linalg.cholesky(-torch.eye(2))
        pyro.factor("bend", -(x[..., 1] ** 4))

    fit = infer.fit_guide(model, AutoFlow(model), num_steps=5, **FAST)
    assert math.isfinite(fit.elbo)


def test_annealing_resumes_from_its_own_wide_density(tmp_path):
    def model():
        pyro.sample("m", dist.Normal(torch.full((2,), 50.0), 3.0).to_event(1))

    class Stop(Exception):  # noqa: N818
        pass

    def stop(step, elbo):
        if step == 6:
            raise Stop

    def guide():
        torch.manual_seed(0)
        return AutoFlow(model).setup()

    options = {**FAST, "num_steps": 12, "annealing": True}
    whole = infer.fit_guide(model, guide(), **options)
    saved = {"checkpoint": tmp_path / "fit.pt", "checkpoint_every": 3}
    with pytest.raises(Stop):
        infer.fit_guide(model, guide(), callback=stop, **saved, **options)
    resumed = infer.fit_guide(model, guide(), resume=True, **saved, **options)
    assert resumed.losses == whole.losses


def test_an_interrupt_in_a_later_restart_keeps_the_earlier(monkeypatch):
    y = torch.tensor([3.0, 3.0, 3.0])
    calls = []

    def find_bulk(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return bulk(*args)

    bulk = recipe.find_bulk
    monkeypatch.setattr(recipe, "find_bulk", find_bulk)
    guide = AutoFlow(models.conjugate)
    fit = infer.fit_guide(models.conjugate, guide, y, restarts=2, **FAST)
    assert fit.stopped == "interrupted"
    assert float(guide.median(y)["mean"]) == pytest.approx(9 / 4, abs=0.1)


@pytest.mark.parametrize("kind", [AutoDelta, AutoLaplaceApproximation])
def test_a_point_has_no_evidence(kind):
    fit = infer.fit_guide(
        models.conjugate, kind(models.conjugate), torch.ones(3), num_steps=5, **FAST
    )
    assert math.isnan(fit.k_hat)
    assert math.isnan(fit.log_evidence)


def test_a_guide_that_ran_pickles():
    y = torch.ones(2)
    guide = AutoFlow(models.conjugate)
    guide(y)
    copy = pickle.loads(pickle.dumps(guide))
    z = torch.zeros(3, 1)
    torch.testing.assert_close(copy.get_posterior().log_prob(z), guide.get_posterior().log_prob(z))


def test_a_bound_that_is_trained():
    def model():
        bound = pyro.param("bound", torch.tensor(1.0), constraint=dist.constraints.positive)
        pyro.sample("t", dist.Uniform(0.0, bound))

    with pytest.raises(ValueError, match=r"'t' with a bound that is trained"):
        AutoFlow(model).setup()


def test_a_base_that_has_no_event():
    class Base(torch.nn.Module):
        def forward(self, context=None):
            return dist.Normal(torch.zeros(2), 1.0)

    def model():
        pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    fit = infer.fit_guide(model, AutoFlow(model, tails=Base()), **FAST)
    assert fit.elbo == pytest.approx(0.0, abs=0.01)
