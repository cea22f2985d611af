"""Simulation-based calibration: ranks, the test of uniformity, guides right and wrong."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.axes import Axes
from pyro import poutine
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal

from pyro_nf.infer._ranks import UniformityTest, describe, fractions_of, ranks_of
from pyro_nf.infer.sbc import sbc

torch.set_num_threads(1)


# Ranks


def test_ranks_count_the_draws_below():
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    assert ranks_of(torch.tensor([2.5, -1.0]), draws, generator).tolist() == [2, 0]
    # A true value among equal draws has every rank with equal probability.
    tied = [int(ranks_of(torch.zeros(()), torch.zeros(3), generator)) for _ in range(4000)]
    np.testing.assert_allclose(np.bincount(tied, minlength=4) / 4000, 0.25, atol=0.03)


def test_fractions_of_uniform_ranks_are_uniform():
    generator = torch.Generator().manual_seed(0)
    ranks = torch.arange(5).repeat(4000)
    fractions = fractions_of(ranks, 4, generator)
    edges = torch.linspace(0, 1, 11, dtype=torch.float64)
    counts = torch.histogram(fractions, edges).hist
    np.testing.assert_allclose(counts.numpy() / len(ranks), 0.1, atol=0.01)


@pytest.mark.parametrize("size", [40, 200])
def test_p_values_of_uniform_numbers_are_uniform(size):
    test = UniformityTest(size, seed=0)
    uniform = np.random.default_rng(1).random((1000, size))
    p_values = np.array([test.p_value(values) for values in uniform])
    for level in (0.05, 0.2, 0.5):
        assert (p_values <= level).mean() == pytest.approx(level, abs=0.04)


def test_the_band_holds_uniform_ecdfs_whole():
    test = UniformityTest(100, seed=0)
    lower, upper = test.band(0.1)
    uniform = np.random.default_rng(1).random((1000, 100))
    ecdfs = (uniform[:, None, :] <= test.points[:, None]).mean(-1)
    outside = ((ecdfs < lower) | (ecdfs > upper)).any(-1).mean()
    assert outside == pytest.approx(0.1, abs=0.04)
    # It lies about the diagonal.
    assert bool(((lower < test.points) & (test.points < upper)).all())


def test_p_values_reach_beyond_the_simulation():
    test = UniformityTest(100, seed=0)
    assert test.p_value(np.full(100, 0.01)) < 1e-20


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.tile([0.05, 0.95], 50), "too narrow"),
        (np.linspace(0.4, 0.6, 100), "too wide"),
        (np.linspace(0.5, 1.0, 100), "too low"),
        (np.linspace(0.0, 0.5, 100), "too high"),
    ],
)
def test_what_is_wrong_in_words(values, words):
    assert words in describe(values)


# Guides


def conjugate(y):
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)


def posterior(y, factor=1.0, shift=0.0):
    scale = (1 / (1 + len(y))) ** 0.5
    return dist.Normal(y.sum(0) * scale**2 + shift, factor * scale).to_event(1)


def fit(factor=1.0, shift=0.0):
    """A function that 'fits' the posterior in closed form, or one that is wrong."""

    def make_guide(model, y):
        y = poutine.trace(model).get_trace(y).nodes["y"]["value"]
        pyro.param("used", torch.zeros(()))

        class Guide(AutoDiagonalNormal):
            def get_posterior(self, *args):
                return posterior(y, factor, shift)

        return Guide(model)

    return make_guide


SHAPE = torch.zeros(3, 2)
OPTIONS = {"num_simulations": 100, "num_draws": 99, "progress": False}


def test_the_exact_guide_is_calibrated():
    result = sbc(conjugate, fit(), SHAPE, **OPTIONS)
    assert result.calibrated
    assert result.flagged() == {}
    assert "no sign of miscalibration" in result.verdict
    assert result.ranks["z"].shape == (100, 2)
    assert int(result.ranks["z"].min()) >= 0
    assert int(result.ranks["z"].max()) <= 99
    assert result.p_values["z"].shape == (2,)
    assert list(result.quantities()) == ["z[0]", "z[1]"]
    assert "2 quantities" in repr(result)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"factor": 0.6}, "too narrow"),
        ({"factor": 1.6}, "too wide"),
        ({"shift": 0.3}, "too high"),
        ({"shift": -0.3}, "too low"),
    ],
    ids=str,
)
def test_a_wrong_guide_is_flagged(options, words):
    result = sbc(conjugate, fit(**options), SHAPE, **OPTIONS)
    assert not result.calibrated
    assert result.p_value < 0.05
    assert set(result.flagged()) <= {"z[0]", "z[1]"}
    assert words in result.verdict


def amortized_guide(y):
    pyro.sample("z", posterior(y))


def test_an_amortized_guide_reads_the_simulated_data():
    options = {**OPTIONS, "num_simulations": 30, "num_draws": 19}
    result = sbc(
        conjugate,
        amortized_guide,
        SHAPE,
        amortized=True,
        arguments=lambda data: (data["y"],),
        **options,
    )
    assert result.calibrated
    # A guide that read other data than the simulated ones would be far off.
    result = sbc(
        conjugate,
        amortized_guide,
        SHAPE,
        amortized=True,
        arguments=lambda data: (data["y"] + 1,),
        **options,
    )
    assert "too high" in result.verdict


def test_data_that_the_model_does_not_observe():
    def model(y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    def make_guide(conditioned):
        y = poutine.trace(conditioned).get_trace().nodes["y"]["value"]

        class Guide(AutoDiagonalNormal):
            def get_posterior(self, *args):
                return dist.Normal(y[None] / 2, 0.5**0.5).to_event(1)

        return Guide(conditioned)

    assert sbc(model, make_guide, observed=["y"], **OPTIONS).calibrated
    with pytest.raises(ValueError, match="Name the data sites"):
        sbc(model, make_guide, **OPTIONS)
    with pytest.raises(ValueError, match="no site 'x'"):
        sbc(model, make_guide, observed=["y", "x"], **OPTIONS)


def test_each_fit_starts_from_an_empty_store():
    """Parameters of the last fit, found by name, would be those of other data."""
    exact = fit()
    pyro.param("kept", torch.ones(()))
    pyro.set_rng_seed(3)
    before = torch.get_rng_state()

    def make_guide(model, y):
        assert list(pyro.get_param_store()) == []
        pyro.set_rng_seed(0)  # a fit that seeds the generators repeats no simulation
        return exact(model, y)

    result = sbc(conjugate, make_guide, SHAPE, **{**OPTIONS, "num_simulations": 20})
    assert len(result.ranks["z"].unique()) > 10
    assert list(pyro.get_param_store()) == ["kept"]
    assert torch.equal(before, torch.get_rng_state())


def test_factors_cannot_be_simulated():
    def model(y):
        conjugate(y)
        pyro.factor("factor", torch.zeros(()))

    with pytest.raises(ValueError, match="cannot simulate the factor"):
        sbc(model, fit(), SHAPE)


def test_improper_priors_cannot_be_simulated():
    def model(y):
        z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    with pytest.raises(ValueError, match="proper prior"):
        sbc(model, fit(), torch.zeros(()))


def test_arguments_that_cannot_be_meant():
    for guide in (AutoNormal(conjugate), AutoDiagonalNormal(conjugate)):
        with pytest.raises(TypeError, match="belongs to one data set"):
            sbc(conjugate, guide, SHAPE)
    with pytest.raises(ValueError, match="got no arguments"):
        sbc(conjugate, amortized_guide, SHAPE, amortized=True)
    with pytest.raises(TypeError, match="guide of type int"):
        sbc(conjugate, 3, SHAPE)
    with pytest.raises(ValueError, match="num_simulations=5"):
        sbc(conjugate, fit(), SHAPE, num_simulations=5)
    with pytest.raises(ValueError, match="significance=1"):
        sbc(conjugate, fit(), SHAPE, significance=1.0)


def test_a_guide_for_other_latents_or_without_numbers():
    def strange(y):
        pyro.sample("w", dist.Normal(0.0, 1.0))

    options = {"amortized": True, "arguments": lambda data: (data["y"],)}
    with pytest.raises(ValueError, match="not finite"):
        sbc(conjugate, fit(shift=float("inf")), SHAPE, **OPTIONS)
    with pytest.raises(ValueError, match="is not covered by the guide"):
        sbc(conjugate, strange, SHAPE, **OPTIONS, **options)


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_picture(factor):
    result = sbc(conjugate, fit(factor), SHAPE, **{**OPTIONS, "num_simulations": 60})
    ax = result.plot()
    assert isinstance(ax, Axes)
    curves = [line for line in ax.lines if len(line.get_xdata()) == len(result.test.points)]
    assert len(curves) == 2
    labels = [line.get_label() for line in ax.lines]
    assert ("z[0]" in labels) == (factor != 1)
