"""Draws of guides as ArviZ's data: groups, dimensions, guides of all kinds, refusals."""

from __future__ import annotations

import warnings

import guide_models as models
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_cases import Y, any_fit, conjugate_guide, converted_schools, dims, groups
from pyro import poutine
from pyro.infer.autoguide import AutoNormal

from pyro_nf.infer import fit_guide
from pyro_nf.infer._arviz.runs import ManyRuns
from pyro_nf.infer.autoguide import AutoFlow
from pyro_nf.infer.to_arviz import to_arviz

# Groups and dimensions.


def test_groups_dimensions_and_coordinates():
    converted = converted_schools()
    draws, school = ("chain", "draw"), ("chain", "draw", "schools")
    latent = {"mu": draws, "tau": draws, "eta": school, "theta": school}
    assert dims(converted, "posterior") == latent
    assert dims(converted, "prior") == latent
    for group in ("log_likelihood", "posterior_predictive", "prior_predictive"):
        assert dims(converted, group) == {"y": school}
    assert dims(converted, "sample_stats") == {"log_p": draws, "log_q": draws, "log_weight": draws}
    assert dims(converted, "observed_data") == {"y": ("schools",)}
    assert set(converted["constant_data"].data_vars) == {"sigma"}
    assert converted["posterior"]["eta"].shape == (4, 100, 8)
    assert converted["prior"]["eta"].shape == (1, 400, 8)
    assert converted["posterior"].coords["schools"].values.tolist() == list(range(8))


def test_values_are_those_of_the_model():
    converted = converted_schools()
    posterior = converted["posterior"]
    theta = posterior["mu"] + posterior["tau"] * posterior["eta"]
    np.testing.assert_allclose(posterior["theta"], theta, rtol=1e-4, atol=1e-4)
    theta = torch.as_tensor(posterior["theta"].values)
    score = dist.Normal(theta, models.SIGMA).log_prob(models.Y)
    np.testing.assert_allclose(converted["log_likelihood"]["y"], score, rtol=1e-4)
    np.testing.assert_allclose(converted["observed_data"]["y"], models.Y)
    stats = converted["sample_stats"]
    np.testing.assert_allclose(stats["log_weight"], stats["log_p"] - stats["log_q"], rtol=1e-4)


def test_attributes():
    converted = converted_schools()
    for attributes in (converted.attrs, converted["posterior"].attrs):
        assert attributes["inference_library"] == "pyro_nf"
        assert {"k_hat", "elbo", "log_evidence", "ess", "seed"} <= attributes.keys()
        assert {"pyro_version", "torch_version", "arviz_version"} <= attributes.keys()
        assert attributes["weights"] == "psis"
        assert attributes["num_draws"] == 2000
        assert attributes["refused_draws"] == 0


@any_fit
def test_sites_without_plates_have_numbered_dimensions():
    factor = torch.eye(3)
    guide = AutoFlow(models.gaussian, flow="nice", init_scale=1.0).setup(factor)
    data = to_arviz(models.gaussian, guide, factor, num_samples=40, num_draws=500)
    assert dims(data, "posterior") == {"x": ("chain", "draw", "x_dim_0")}
    assert groups(data) >= {"posterior", "sample_stats", "constant_data"}
    assert not groups(data) & {"log_likelihood", "posterior_predictive", "observed_data"}


@any_fit
def test_names_that_clash_or_part_groups():
    def model(y):
        with pyro.plate("sample", 3):
            z = pyro.sample("a/z", dist.Normal(0.0, 1.0))
            with pyro.plate("draw", 2):
                pyro.sample("w", dist.Normal(z, 1.0).expand([2, 3]))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    y = torch.zeros(())  # broadcasts over the plate
    guide = AutoFlow(model, flow="nice", init_scale=1.0).setup(y)
    data = to_arviz(model, guide, y, num_samples=40, num_draws=500)
    assert dims(data, "posterior") == {
        "a.z": ("chain", "draw", "sample_plate"),
        "w": ("chain", "draw", "draw_plate", "sample_plate"),
    }
    assert data["observed_data"]["y"].shape == (3,)
    assert data["log_likelihood"]["y"].shape == (4, 10, 3)


@any_fit
def test_event_dimensions_come_behind_plates():
    def model(y):
        with pyro.plate("rows", 4):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.deterministic("twice", 2 * z, event_dim=1)
            pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)

    y = torch.zeros(4, 2)
    guide = AutoFlow(model, flow="nice", init_scale=0.7).setup(y)
    data = to_arviz(model, guide, y, num_samples=40, num_draws=500)
    assert dims(data, "posterior")["z"] == ("chain", "draw", "rows", "z_dim_1")
    assert dims(data, "posterior")["twice"] == ("chain", "draw", "rows", "twice_dim_1")
    assert dims(data, "log_likelihood")["y"] == ("chain", "draw", "rows")
    assert dims(data, "posterior_predictive")["y"] == ("chain", "draw", "rows", "y_dim_1")


@any_fit
def test_groups_can_be_left_out():
    options = {"predictive": False, "log_likelihood": False, "num_samples": 40, "num_draws": 500}
    data = to_arviz(models.conjugate, conjugate_guide(), Y, **options)
    assert not groups(data) & {"log_likelihood", "posterior_predictive", "prior"}


def test_named_sites_are_drawn_and_others_keep_their_data():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(torch.zeros(()), 1.0))
        first = pyro.sample("first", dist.Normal(mean, 1.0), obs=y[0])
        pyro.sample("second", dist.Normal(mean + 100 * first, 1.0), obs=y[1])

    def guide(y):
        pyro.sample("mean", dist.Normal(0.0, 0.5))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = to_arviz(model, guide, Y, predictive=["second"], num_samples=200, num_draws=500)
        with pytest.raises(ValueError, match="'mean' is no observed site"):
            to_arviz(model, guide, Y, predictive="mean")
    assert set(data["posterior_predictive"].data_vars) == {"second"}
    assert float(data["posterior_predictive"]["second"].mean()) == pytest.approx(100, abs=2)


def test_prior_is_left_out_where_it_is_improper():
    guide = AutoFlow(models.improper, flow="nice", init_scale=0.4).setup(Y)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = to_arviz(models.improper, guide, Y, prior=True, num_samples=40, num_draws=500)
    assert any("left the prior out: mean, scale" in str(w.message) for w in caught)
    assert not groups(data) & {"prior", "prior_predictive"}


def test_course_of_the_fit_is_written_down():
    guide = AutoFlow(models.conjugate, flow="nice")
    fit = fit_guide(models.conjugate, guide, Y, starts=1, final_draws=500)
    data = to_arviz(models.conjugate, guide, Y, fit=fit, num_samples=400)
    assert data.attrs["fit_stopped"] == "affine"
    assert data.attrs["fit_stages"] == "path, affine"
    assert data.attrs["log_evidence"] == pytest.approx(models.conjugate_log_evidence(Y), abs=0.02)
    with pytest.raises(ValueError, match="the fit of another guide"):
        to_arviz(models.conjugate, conjugate_guide(), Y, fit=fit)


# Guides and models of all kinds.


def test_pyros_guides_and_modules():
    guide = AutoNormal(models.conjugate, init_scale=7**-0.5)
    guide(Y)
    guide.locs.mean.data = Y.sum() / 7
    data = to_arviz(models.conjugate, guide, Y, num_samples=400, num_draws=1000)
    assert dims(data, "posterior") == {"mean": ("chain", "draw")}
    assert data.attrs["guide"] == "AutoNormal"


@pytest.mark.parametrize("model", [models.sums_over_particles])
def test_model_that_is_wrong_under_a_plate_is_scored_rightly(model):
    draws = torch.randn(20, 3)
    runs = ManyRuns(model, (torch.tensor(1.0),), {}).run({"b": draws}, 20)
    expected = dist.Normal(draws.sum(-1), 1.0).log_prob(torch.tensor(1.0))
    torch.testing.assert_close(runs.log_probs["y"], expected)


def test_derived_values_that_sum_over_particles_are_right():
    def model():
        b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.deterministic("total", b.sum())

    draws = torch.randn(20, 3)
    runs = ManyRuns(model, (), {}).run({"b": draws}, 20)
    torch.testing.assert_close(runs.values["total"], draws.sum(-1))


def test_control_flow_that_depends_on_values_is_run_draw_by_draw():
    def model():
        b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.deterministic("sign", torch.tensor(1.0 if float(b.sum()) > 0 else -1.0))

    draws = torch.randn(20, 3)
    runs = ManyRuns(model, (), {}).run({"b": draws}, 20)
    torch.testing.assert_close(runs.values["sign"], draws.sum(-1).sign())


@any_fit
def test_discrete_sites_are_summed_out_of_each_datum():
    y = torch.tensor([-2.1, 1.7, 2.4])
    guide = AutoFlow(poutine.block(models.mixture, hide=["k"]), flow="nice", init_scale=0.5)
    guide.setup(y)
    data = to_arviz(models.mixture, guide, y, num_samples=40, num_draws=500)
    locs = torch.as_tensor(data["posterior"]["locs"].values)[..., None, :]  # (4, 10, 1, 2)
    parts = dist.Normal(locs, 1.0).log_prob(y[:, None]) + torch.tensor([0.4, 0.6]).log()
    np.testing.assert_allclose(data["log_likelihood"]["y"], parts.logsumexp(-1), rtol=1e-4)
    assert set(data["posterior"].data_vars) == {"locs"}
    assert data["posterior_predictive"]["y"].shape == (4, 10, 3)


@any_fit
def test_discrete_site_that_data_share_has_no_pointwise_density():
    def model(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        k = pyro.sample("k", dist.Bernoulli(0.5))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(a + k, 1.0), obs=y)

    guide = AutoFlow(poutine.block(model, hide=["k"]), flow="nice", init_scale=0.7).setup(Y)
    with pytest.warns(UserWarning, match="left y out of the log likelihood"):
        data = to_arviz(model, guide, Y, num_samples=40, num_draws=500)
    assert "log_likelihood" not in groups(data)


def test_masked_data_score_zero_and_scales_do_not_enter():
    mask = torch.tensor([True, False, True])

    def model(y):
        with pyro.plate("data", 3), poutine.scale(scale=5.0), poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    draws = torch.randn(5, 3)
    runs = ManyRuns(model, (torch.zeros(3),), {}).run({"z": draws}, 5)
    torch.testing.assert_close(
        runs.log_probs["y"], dist.Normal(draws, 1.0).log_prob(torch.tensor(0.0)) * mask
    )


# What is refused.


def test_refuses_what_does_not_fit():
    def convert(**options):
        return to_arviz(models.conjugate, conjugate_guide(), Y, **options)

    with pytest.raises(ValueError, match="num_samples=10 for num_chains=4"):
        convert(num_samples=10)
    with pytest.raises(ValueError, match="num_draws=100 for num_samples=400"):
        convert(num_samples=400, num_draws=100)
    with pytest.raises(ValueError, match="weights='smooth'"):
        convert(weights="smooth")
    with pytest.raises(TypeError, match="a fit of type int"):
        convert(fit=3)


def test_refuses_a_model_that_shows_part_of_its_data():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y), subsample_size=2) as rows:
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y[rows])

    with pytest.raises(ValueError, match="to_arviz needs the log density of all data"):
        to_arviz(model, AutoFlow(model, flow="nice").setup(Y), Y)


def test_refuses_latents_that_the_guide_leaves_out():
    def model(y):
        models.conjugate(y)
        pyro.sample("other", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="latent site 'other' is not covered"):
        to_arviz(model, conjugate_guide(), Y, num_samples=40, num_draws=200)


def test_refuses_a_guide_that_is_nowhere_finite():
    def model():
        pyro.sample("u", dist.Beta(torch.tensor(2.0), 2.0))

    def guide():
        pyro.sample("u", dist.Normal(9.0, 0.1))

    for weights in ("psis", "raw"):
        with pytest.raises(ValueError, match="finite weight"):
            to_arviz(model, guide, weights=weights, num_samples=40, num_draws=100)
