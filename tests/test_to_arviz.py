"""Draws of guides as ArviZ's data: groups, dimensions, weights, and leave-one-out estimates."""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings

import guide_models as models
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal

from pyro_nf.infer import fit_guide
from pyro_nf.infer._arviz.package import installed_arviz, is_version_one, pack
from pyro_nf.infer._arviz.runs import ManyRuns
from pyro_nf.infer.autoguide import AutoFlow
from pyro_nf.infer.loo import loo_approximate_posterior
from pyro_nf.infer.to_arviz import to_arviz

az = installed_arviz()
Y = torch.tensor([1.0, 0.2, 1.6, -0.4, 0.9, 1.3])
# Shapes are tested with guides that were never fitted.
any_fit = pytest.mark.filterwarnings("ignore:to_arviz. k_hat is")


def conjugate_guide(loc=None, scale=None):
    """The posterior of ``models.conjugate``, or a normal beside it."""

    def guide(y):
        n = len(y)
        where = y.sum() / (1 + n) if loc is None else torch.tensor(loc)
        pyro.sample("mean", dist.Normal(where, (1 + n) ** -0.5 if scale is None else scale))

    return guide


def schools(y, sigma):
    """Eight schools, non-centred, the effects derived."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(5.0))
    with pyro.plate("schools", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * eta)
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def groups(data):
    return {name.strip("/") for name in (data.groups if is_version_one(az) else data.groups())}


def dims(data, group):
    return {name: value.dims for name, value in data[group].data_vars.items()}


@pytest.fixture(scope="module")
def converted():
    pyro.set_rng_seed(0)
    guide = AutoFlow(schools, flow="nice", init_scale=0.5)
    guide.setup(models.Y, models.SIGMA)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="to_arviz: k_hat")
        return to_arviz(
            schools, guide, models.Y, models.SIGMA, num_samples=400, num_draws=2000, prior=True
        )


# Groups and dimensions.


def test_groups_dimensions_and_coordinates(converted):
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


def test_values_are_those_of_the_model(converted):
    posterior = converted["posterior"]
    theta = posterior["mu"] + posterior["tau"] * posterior["eta"]
    np.testing.assert_allclose(posterior["theta"], theta, rtol=1e-4, atol=1e-4)
    theta = torch.as_tensor(posterior["theta"].values)
    score = dist.Normal(theta, models.SIGMA).log_prob(models.Y)
    np.testing.assert_allclose(converted["log_likelihood"]["y"], score, rtol=1e-4)
    np.testing.assert_allclose(converted["observed_data"]["y"], models.Y)
    stats = converted["sample_stats"]
    np.testing.assert_allclose(stats["log_weight"], stats["log_p"] - stats["log_q"], rtol=1e-4)


def test_attributes(converted):
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


# Weights.


def test_resampled_draws_correct_a_biased_guide():
    guide = conjugate_guide(loc=0.4, scale=0.5)
    mean, deviation = float(Y.sum() / 7), 7**-0.5
    off = {}
    for weights in ("psis", "raw"):
        data = to_arviz(models.conjugate, guide, Y, weights=weights)
        draws = data["posterior"]["mean"]
        off[weights] = abs(float(draws.mean()) - mean), abs(float(draws.std()) - deviation)
    assert off["psis"][0] < 0.02 < off["raw"][0]
    assert off["psis"][1] < 0.02 < off["raw"][1]


def test_chains_are_exchangeable():
    """Copies of one draw are dealt out over all chains, so none stands apart or lags."""
    data = to_arviz(models.conjugate, conjugate_guide(loc=0.4, scale=0.5), Y)
    draws = data["posterior"]["mean"].values  # (4, 1000)
    assert np.ptp(draws.mean(1)) < 6 * draws.std() / 1000**0.5
    centred = draws - draws.mean()
    assert abs((centred[:, 1:] * centred[:, :-1]).mean()) < 0.08 * draws.var()


def test_predictive_draws_do_not_share_the_guides_random_numbers():
    data = to_arviz(models.conjugate, conjugate_guide(), Y, weights="raw", num_samples=4000)
    mean = data["posterior"]["mean"].values
    noise = data["posterior_predictive"]["y"].values - mean[..., None]
    assert noise.std() == pytest.approx(1.0, abs=0.03)
    correlation = np.corrcoef(mean.reshape(-1), noise.reshape(4000, -1), rowvar=False)[0, 1:]
    assert np.abs(correlation).max() < 0.08


def test_draws_without_density_are_counted_and_left_out():
    def model():
        pyro.sample("u", dist.Beta(torch.tensor(2.0), 2.0))

    def guide():
        pyro.sample("u", dist.Normal(0.5, 0.4))

    for weights in ("psis", "raw"):
        with pytest.warns(UserWarning, match="of 3000 draws have no finite weight"):
            data = to_arviz(model, guide, weights=weights, num_draws=3000, num_samples=400)
        values = data["posterior"]["u"].values
        assert values.min() > 0
        assert values.max() < 1
        assert np.isfinite(data["sample_stats"]["log_weight"].values).all()
        assert 300 < data.attrs["refused_draws"] < 900  # P(|z| > 1.25) is .21


def test_large_k_hat_is_told():
    with pytest.warns(UserWarning, match="to_arviz: k_hat is"):
        to_arviz(models.conjugate, conjugate_guide(loc=1.5, scale=0.1), Y)


def test_draws_are_those_of_the_seed_and_leave_the_generator():
    state = torch.get_rng_state()
    first, again, other = (
        to_arviz(models.conjugate, conjugate_guide(), Y, seed=seed, num_samples=40)
        for seed in (3, 3, 4)
    )
    assert torch.equal(state, torch.get_rng_state())
    for group, name in (("posterior", "mean"), ("posterior_predictive", "y")):
        assert np.array_equal(first[group][name], again[group][name])
        assert not np.array_equal(first[group][name], other[group][name])


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


# What ArviZ makes of it.


@any_fit
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_summary_and_trace_plot(converted):
    assert len(az.summary(converted)) == 18
    az.plot_trace(converted)


def exact_loo(y):
    """Log predictive density of each datum given the others."""
    n = len(y)
    mean = (y.sum() - y) / n
    return dist.Normal(mean, (1 + 1 / n) ** 0.5).log_prob(y)


def elpd_of(loo):
    return loo.elpd if is_version_one(az) else loo.elpd_loo


def test_leave_one_out_of_resampled_draws_is_exact():
    guide = conjugate_guide(loc=0.5, scale=0.5)
    data = to_arviz(models.conjugate, guide, Y, num_samples=8000, num_draws=20_000)
    assert elpd_of(az.loo(data)) == pytest.approx(float(exact_loo(Y).sum()), abs=0.05)


def test_leave_one_out_of_raw_draws_is_exact_once_corrected():
    guide = conjugate_guide(loc=0.4, scale=0.5)
    data = to_arviz(models.conjugate, guide, Y, weights="raw")
    loo = loo_approximate_posterior(data, pointwise=True)
    exact = exact_loo(Y)
    assert elpd_of(loo) == pytest.approx(float(exact.sum()), abs=0.05)
    pointwise = loo.elpd_i if is_version_one(az) else loo.loo_i
    assert pointwise.dims == ("data",)
    np.testing.assert_allclose(pointwise.values, exact, atol=0.03)
    assert abs(elpd_of(az.loo(data)) - float(exact.sum())) > 0.1  # uncorrected


def test_leave_one_out_refuses_to_count_weights_twice():
    data = to_arviz(models.conjugate, conjugate_guide(), Y, num_samples=40)
    with pytest.raises(ValueError, match="resampled by weight.*twice"):
        loo_approximate_posterior(data)


def test_leave_one_out_names_what_is_missing():
    data = to_arviz(
        models.conjugate,
        conjugate_guide(),
        Y,
        weights="raw",
        num_samples=40,
        log_likelihood=False,
    )
    if not is_version_one(az):
        with pytest.raises(ValueError, match="'log_likelihood'"):
            loo_approximate_posterior(data)


@pytest.mark.skipif(is_version_one(az), reason="ArviZ 1 has its own estimate")
def test_leave_one_out_tells_of_a_large_k_hat():
    y = torch.cat([Y, torch.tensor([30.0])])
    data = to_arviz(models.conjugate, conjugate_guide(), y, weights="raw")
    with pytest.warns(UserWarning, match="k_hat is above 0.70 for . of 7 data"):
        loo = loo_approximate_posterior(data)
    assert loo.warning


ENGINES = {"h5netcdf": "h5py", "netcdf4": "netCDF4"}  # what each needs
INSTALLED = [name for name, needed in ENGINES.items() if importlib.util.find_spec(needed)]


@pytest.mark.skipif(not INSTALLED, reason="needs netCDF")
def test_files_keep_everything(converted, tmp_path):
    path = str(tmp_path / "draws.nc")
    converted.to_netcdf(path, engine=INSTALLED[0])
    loaded = az.from_netcdf(path, engine=INSTALLED[0])
    assert groups(loaded) - {""} == groups(converted) - {""}
    assert loaded.attrs["k_hat"] == pytest.approx(converted.attrs["k_hat"])
    np.testing.assert_array_equal(loaded["posterior"]["eta"], converted["posterior"]["eta"])


def test_version_one_gets_nested_groups(monkeypatch):
    """What ArviZ 1 is called with, by a stand-in; its real self runs this file on Python 3.12."""
    seen = {}

    def from_dict(data, **options):
        seen.update(options, data=data)
        return "tree"

    stand_in = types.SimpleNamespace(__version__="1.3.0", from_dict=from_dict)
    monkeypatch.setitem(sys.modules, "arviz", stand_in)
    values = {"posterior": {"z": np.zeros((4, 5, 3))}, "observed_data": {"y": np.zeros(2)}}
    assert pack(values, {"z": ["plate"], "y": ["data"]}, {"seed": 1}) == "tree"
    assert {k: {n: v.shape for n, v in g.items()} for k, g in seen["data"].items()} == {
        "posterior": {"z": (4, 5, 3)},
        "observed_data": {"y": (2,)},
    }
    assert seen["sample_dims"] == ["chain", "draw"]
    assert seen["dims"] == {"z": ["plate"], "y": ["data"]}
    assert seen["attrs"] == {"/": {"seed": 1}, "posterior": {"seed": 1}}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="ArviZ 1 needs Python 3.12")
def test_version_one_makes_a_tree():
    xarray = pytest.importorskip("xarray")
    if not is_version_one(az):
        pytest.skip("an older ArviZ is installed")
    tree = to_arviz(models.conjugate, conjugate_guide(), Y, num_samples=40)
    assert isinstance(tree, xarray.DataTree)
    assert tree["posterior/mean"].dims == ("chain", "draw")


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

    with pytest.raises(ValueError, match="without the model's latent other"):
        to_arviz(model, conjugate_guide(), Y, num_samples=40, num_draws=200)


def test_refuses_a_guide_that_is_nowhere_finite():
    def model():
        pyro.sample("u", dist.Beta(torch.tensor(2.0), 2.0))

    def guide():
        pyro.sample("u", dist.Normal(9.0, 0.1))

    for weights in ("psis", "raw"):
        with pytest.raises(ValueError, match="finite weight"):
            to_arviz(model, guide, weights=weights, num_samples=40, num_draws=100)
