"""Fits of guides: the recipe's stages, what it counts and keeps, and other guides."""

from __future__ import annotations

import math
import signal

import guide_models as models
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoIAFNormal, AutoNormal
from torch import nn

from pyro_nf import flows, infer
from pyro_nf.infer.autoguide import AutoFlow

Y = torch.tensor([0.3, 1.2, -0.4, 0.8])


@pytest.fixture(autouse=True)
def _fresh():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


def fit(model, *args, guide=None, **options):
    guide = AutoFlow(model) if guide is None else guide
    options = {"starts": 1, "num_steps": 60, "final_draws": 2000, "progress": False, **options}
    return infer.fit_guide(model, guide, *args, **options)


def _banana():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("b", dist.Normal(a**2, 0.3))


def test_a_gaussian_posterior_ends_after_the_affine_stage():
    result = fit(models.conjugate, Y)
    assert [stage.name for stage in result.stages] == ["path", "affine"]
    assert result.stopped == "affine"
    assert result.log_evidence == pytest.approx(models.conjugate_log_evidence(Y), abs=1e-3)
    assert result.elbo == pytest.approx(models.conjugate_log_evidence(Y), abs=1e-3)
    assert result.particles == "plate"
    draws = result.guide.get_posterior().sample((20_000,))
    assert float(draws.mean()) == pytest.approx(float(Y.sum() / 5), abs=0.02)
    assert float(draws.std()) == pytest.approx(5**-0.5, rel=0.03)


def test_correlated_and_badly_scaled():
    torch.manual_seed(3)
    factor = torch.randn(6, 6).tril() * torch.logspace(-2, 1, 6)[:, None]
    factor = factor + factor.diagonal().sign().diag() * 0.01
    factor = factor * factor.diagonal().sign()
    result = fit(models.gaussian, factor)
    assert result.elbo == pytest.approx(0.0, abs=1e-2)
    draws = result.guide.get_posterior().sample((50_000,))
    whitened = torch.linalg.solve_triangular(factor, draws.T, upper=False)
    assert torch.allclose(whitened.cov(), torch.eye(6), atol=0.03)


def test_the_flow_stage_lifts_the_elbo():
    result = fit(_banana, num_steps=120)
    assert [stage.name for stage in result.stages] == ["path", "affine", "flow"]
    path, affine, flow = (stage.elbo for stage in result.stages)
    assert flow > affine + 0.1
    assert path <= affine + 0.05
    assert result.elbo == pytest.approx(0.0, abs=0.1)
    assert len(result.losses) == 120
    assert result.optima
    assert result.optima[0].shape == (2,)


def test_improper_priors():
    y = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 2 + 3
    result = fit(models.improper, y)
    mean = result.guide.median(y)["mean"]
    assert float(mean) == pytest.approx(float(y.mean()), abs=0.05)
    assert result.ess > 0.9


def test_the_global_generator_is_left_as_it_was():
    guide = AutoFlow(models.conjugate).setup(Y)
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    fit(models.conjugate, Y, guide=guide)
    assert torch.equal(torch.rand(1), before)


def test_the_same_seed_gives_the_same_fit():
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(0)  # which decides the guide's first weights
        guide = AutoFlow(_banana).setup()
        results.append(fit(_banana, guide=guide, num_steps=20, seed=seed))
    assert results[0].losses == results[1].losses != results[2].losses
    assert results[0].elbo == results[1].elbo


def test_restarts_keep_the_best():
    result = fit(_banana, num_steps=10, restarts=3)
    assert len(result.restarts) == 3
    assert result.elbo == max(result.restarts)
    q = result.guide.get_posterior()
    z = q.sample((4000,))
    a, b = z.unbind(-1)
    log_p = dist.Normal(0.0, 1.0).log_prob(a) + dist.Normal(a**2, 0.3).log_prob(b)
    assert float((log_p - q.log_prob(z)).mean().detach()) == pytest.approx(result.elbo, abs=0.1)


def test_going_on_from_where_a_guide_is():
    result = fit(_banana, num_steps=100)
    longer = fit(_banana, guide=result.guide, starts=0, num_steps=50)
    assert [stage.name for stage in longer.stages] == ["flow"]
    assert longer.elbo > result.elbo - 0.1


def test_steps_that_are_not_finite_are_skipped():
    def model():
        x = pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.factor("edge", torch.where(x[..., 0] > 3.2, math.nan, x[..., 1] ** 2 * 0.3))

    result = fit(model, num_steps=40, num_particles=64)
    assert 0 < result.skipped < 40
    assert math.isfinite(result.elbo)


def test_a_fit_that_finds_nothing_finite_stops_with_a_warning():
    slope = torch.tensor(0.1)

    def model():
        x = pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.factor("f", x[..., 0] ** 2 * slope)

    def break_down(step, elbo):
        if step == 5:
            slope.fill_(math.nan)

    with pytest.warns(UserWarning, match="stopped after 50 steps in a row"):
        result = fit(model, num_steps=200, guide=AutoFlow(model, affine=None), callback=break_down)
    assert result.skipped == 50
    assert result.stopped == "non-finite"
    assert all(bool(p.isfinite().all()) for p in result.guide.parameters())


def test_ctrl_c_keeps_the_weights():
    def interrupt(step, elbo):
        if step == 20:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = fit(_banana, callback=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.stopped == "interrupted"
    assert len(result.losses) <= 21
    assert math.isfinite(result.elbo)


def test_a_checkpoint_continues_the_same_run(tmp_path):
    path = tmp_path / "fit.pt"

    def guide():
        torch.manual_seed(0)
        return AutoFlow(_banana).setup()

    whole = fit(_banana, guide=guide(), num_steps=40, tolerance=None)

    class Stop(Exception):  # noqa: N818
        pass

    def stop(step, elbo):
        if step == 25:
            raise Stop

    options = {"num_steps": 40, "tolerance": None, "checkpoint": path, "checkpoint_every": 10}
    with pytest.raises(Stop):
        fit(_banana, guide=guide(), callback=stop, **options)
    resumed = fit(_banana, guide=guide(), resume=True, **options)
    assert resumed.losses == whole.losses
    assert resumed.elbo == whole.elbo
    assert [stage.name for stage in resumed.stages] == ["path", "affine", "flow"]
    with pytest.raises(ValueError, match="num_particles=256, this fit has num_particles=8"):
        fit(_banana, guide=guide(), resume=True, num_particles=8, **options)


def test_parameters_of_the_model_are_trained_along():
    def model(y):
        loc = pyro.param("loc", torch.tensor(0.0))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(loc + z, 1.0), obs=y)

    y = torch.tensor([4.0, 5.0, 6.0])
    result = fit(model, y, num_steps=150, learning_rate=0.1)
    assert result.stopped == "max_steps"  # the affine stage alone never ends such a fit
    assert float(pyro.param("loc").detach()) == pytest.approx(5.0, abs=0.2)


def test_discrete_sites():
    y = torch.tensor([-2.0, 1.5, 2.5])
    model = config_enumerate(models.mixture)
    guided = poutine.block(models.mixture, hide=["k"])
    plain = fit(model, y, guide=AutoFlow(guided))
    elbo = TraceEnum_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)
    enumerated = fit(model, y, guide=AutoFlow(guided), elbo=elbo, num_steps=30)
    assert plain.elbo == pytest.approx(enumerated.elbo, abs=0.05)
    assert [stage.name for stage in enumerated.stages] == ["path", "affine", "flow"]


def test_a_model_that_must_run_for_each_draw():
    result = fit(models.branches, num_steps=3, final_draws=20)
    assert result.particles == "loop"


def test_a_model_that_can_be_mapped_only():
    y = torch.tensor(1.5)
    result = fit(models.sums_over_particles, y)
    assert result.particles == "vmap"
    expected = dist.Normal(0.0, 2.0).log_prob(y)  # b.sum() has variance 3, the noise 1
    assert result.log_evidence == pytest.approx(float(expected), abs=0.01)


def test_subsampled_data():
    y = torch.randn(200, generator=torch.Generator().manual_seed(0)) + 2.0

    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y), subsample_size=50) as i:
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y[i])

    result = fit(model, y, num_steps=150, learning_rate=0.02)
    assert math.isnan(result.k_hat)  # weights of random parts of the data say nothing
    draws = result.guide.get_posterior().sample((5000,))
    assert float(draws.mean()) == pytest.approx(float(y.sum() / 201), abs=0.05)
    assert float(draws.std()) == pytest.approx(201**-0.5, rel=0.3)


GUIDES = {
    "AutoNormal": AutoNormal,
    "AutoIAFNormal": AutoIAFNormal,
}


@pytest.mark.parametrize("kind", GUIDES.values(), ids=GUIDES)
def test_pyros_own_guides(kind):
    result = fit(models.schools, models.Y, models.SIGMA, guide=kind(models.schools), num_steps=20)
    assert [stage.name for stage in result.stages] == ["elbo"]
    assert result.particles == "plate"
    assert math.isfinite(result.elbo)


def test_a_guide_by_hand():
    posterior = flows.realnvp(1, transforms=1)

    def guide(y):
        pyro.module("posterior", posterior)
        pyro.sample("mean", dist.Normal(posterior().rsample().squeeze(-1), 0.1))

    def normal(y):
        loc = pyro.param("loc", torch.tensor(0.0))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        pyro.sample("mean", dist.Normal(loc, scale))

    result = fit(models.conjugate, Y, guide=normal, num_steps=400, learning_rate=0.05)
    assert result.elbo == pytest.approx(models.conjugate_log_evidence(Y), abs=0.02)
    with pytest.raises(ValueError, match="both need an AutoFlow"):
        fit(models.conjugate, Y, guide=normal, restarts=2)
    assert callable(guide)


def test_pyros_elbo_gives_the_same_fit():
    elbo = Trace_ELBO(num_particles=64, vectorize_particles=True, max_plate_nesting=0)
    result = fit(_banana, elbo=elbo, num_steps=150)
    assert result.elbo == pytest.approx(0.0, abs=0.15)


def test_a_model_that_is_a_module():
    class Regression(nn.Module):
        def forward(self, x, y):
            b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Normal((x * b[..., None, :]).sum(-1), 0.5), obs=y)

    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    model = Regression()
    result = fit(model, x, x @ torch.tensor([1.0, -2.0]), device="cpu")
    assert result.particles in ("plate", "vmap")
    assert float(result.guide.median(x, x[:, 0])["b"][1]) == pytest.approx(-2.0, abs=0.2)


def test_two_modes_are_found_by_annealing():
    def model():
        x = pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1).mask(False))  # noqa: FBT003
        offset = torch.tensor([4.0, 0.0])
        left = -0.5 * (x - 1 + offset).square().sum(-1)
        right = -0.5 * (x - 1 - offset).square().sum(-1)
        pyro.factor("modes", torch.logaddexp(left, right))

    plain = fit(model, num_steps=50)
    annealed = fit(model, num_steps=300, num_particles=128, annealing=True)
    shares = [
        float((r.guide.get_posterior().sample((5000,))[:, 0] > 1).float().mean())
        for r in (plain, annealed)
    ]
    assert not 0.02 < shares[0] < 0.98
    assert 0.2 < shares[1] < 0.8


def test_a_target_without_a_model():
    def log_density(z):
        return -0.5 * (z[:, 0].square() + ((z[:, 1] - z[:, 0].square()) / 0.5).square())

    result = infer.fit_target(
        flows.realnvp(2, transforms=6, hidden_dims=(16,)),
        log_density,
        num_steps=300,
        progress=False,
    )
    assert result.log_evidence == pytest.approx(math.log(2 * math.pi * 0.5), abs=0.05)
    assert result.guide().sample((5,)).shape == (5, 2)
    assert result.particles is None
