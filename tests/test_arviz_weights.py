"""Weights of the draws that ArviZ gets, and what ArviZ makes of them."""

from __future__ import annotations

import importlib.util
import sys
import types

import guide_models as models
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_cases import Y, any_fit, az, conjugate_guide, converted_schools, groups

from pyro_nf.infer._arviz.package import is_version_one, pack
from pyro_nf.infer.loo import loo_approximate_posterior
from pyro_nf.infer.to_arviz import to_arviz

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


# What ArviZ makes of it.


@any_fit
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_summary_and_trace_plot():
    converted = converted_schools()
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
def test_files_keep_everything(tmp_path):
    converted = converted_schools()
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
