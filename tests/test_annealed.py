"""Annealed importance sampling: evidence, lost modes, densities that fail."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from torch.distributions import Independent, MultivariateNormal, Normal

from pyro_nf.infer import _annealed
from pyro_nf.infer._chains import Chains
from pyro_nf.infer.annealed import annealed_importance_sampling
from pyro_nf.infer.autoguide import AutoFlow

torch.set_num_threads(1)


def wide(loc, scale) -> Independent:
    return Independent(Normal(loc, scale), 1)


def zeros(size) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.float64)


def two_modes(separation, size=5):
    """A density of integral 1 with two modes; returns one of the modes too."""
    mode = zeros(size)
    mode[0] = separation / 2

    def log_density(x):
        parts = [-0.5 * (x - m).square().sum(-1) for m in (mode, -mode)]
        return torch.logaddexp(*parts) - math.log(2) - size / 2 * math.log(2 * math.pi)

    return log_density, mode


def correlated_gaussian(size=10) -> MultivariateNormal:
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(size)
    deviation = torch.logspace(-1.5, 1, size, dtype=torch.float64)
    deviation = deviation[torch.randperm(size, generator=generator)]
    correlation = 0.95 ** (index[:, None] - index).abs().double()
    loc = 3 * torch.randn(size, generator=generator, dtype=torch.float64)
    return MultivariateNormal(loc, correlation * deviation[:, None] * deviation)


# The sampler


@pytest.mark.parametrize("separation", [8.0, 16.0])
def test_finds_a_mode_that_the_start_is_not_centred_on(separation):
    log_density, mode = two_modes(separation)
    result = _annealed.annealed_importance_sampling(log_density, wide(mode, zeros(5) + 10))
    assert abs(result.log_evidence) < 0.33
    share = torch.softmax(result.log_weights, 0)[result.draws[:, 0] < 0].sum()
    assert 0.3 < share < 0.7
    assert 0.5 < result.acceptance < 0.9


def test_a_start_at_one_mode_misses_the_other():
    log_density, mode = two_modes(16.0)
    result = _annealed.annealed_importance_sampling(
        log_density, wide(mode, zeros(5) + 1), num_temperatures=50
    )
    assert result.log_evidence == pytest.approx(-math.log(2), abs=0.1)


def test_correlated_gaussian_within_its_standard_error():
    target = correlated_gaussian()
    result = _annealed.annealed_importance_sampling(
        target.log_prob, wide(target.loc, 10 * target.stddev)
    )
    assert abs(result.log_evidence) < 3 * result.log_evidence_se
    assert result.log_evidence_se < 0.5


def test_funnel_from_its_own_scales_errs_downwards():
    def funnel(x):
        neck, rest = x[:, :1], x[:, 1:]
        inner = Normal(0.0, (neck / 2).exp()).log_prob(rest).sum(-1)
        return inner + Normal(0.0, 3.0).log_prob(neck[:, 0])

    scale = torch.tensor([3.0] + [9.0] * 9, dtype=torch.float64)
    result = _annealed.annealed_importance_sampling(funnel, wide(zeros(10), scale))
    assert -1.0 < result.log_evidence < 3 * result.log_evidence_se


def test_start_and_target_alike():
    start = MultivariateNormal(zeros(3), scale_tril=torch.tril(zeros((3, 3)) + 0.5))
    result = _annealed.annealed_importance_sampling(
        start.log_prob, start, num_chains=3000, num_temperatures=20
    )
    assert result.log_evidence == pytest.approx(0, abs=1e-9)
    assert result.ess == pytest.approx(1)
    # The moves leave the distribution as it is.
    torch.testing.assert_close(result.draws.T.cov(), start.covariance_matrix, rtol=0.15, atol=0.03)


def test_temperatures_rise_from_zero_to_one():
    target = correlated_gaussian(4)
    result = _annealed.annealed_importance_sampling(
        target.log_prob, wide(zeros(4), zeros(4) + 100), num_chains=50, num_temperatures=40
    )
    steps = result.temperatures
    assert steps.shape == (41,)
    assert steps[0] == 0
    assert steps[-1] == 1
    assert bool((steps.diff() > 0).all())


def test_temperatures_of_a_density_too_far_off_are_bounded_in_number():
    narrow = Normal(zeros(20), 1e-4)
    result = _annealed.annealed_importance_sampling(
        lambda x: narrow.log_prob(x - 3).sum(-1),
        wide(zeros(20), zeros(20) + 10),
        num_chains=20,
        num_temperatures=10,
    )
    assert len(result.temperatures) == 11
    assert result.log_evidence < -100
    assert not math.isnan(result.log_evidence_se)


def test_a_hundred_dimensions():
    target = wide(zeros(100), zeros(100) + 0.5)
    result = _annealed.annealed_importance_sampling(
        target.log_prob, wide(zeros(100), zeros(100) + 1), num_chains=200, num_temperatures=150
    )
    assert abs(result.log_evidence) < max(4 * result.log_evidence_se, 0.5)


@pytest.mark.parametrize("value", [-math.inf, math.nan, math.inf])
def test_values_that_are_not_finite_count_as_zero(value):
    def log_density(x):
        inside = Normal(0.0, 1.0).log_prob(x).sum(-1)
        return torch.where(x[:, 0] < 0, inside, value)

    result = _annealed.annealed_importance_sampling(
        log_density, wide(zeros(2), zeros(2) + 3), num_temperatures=60
    )
    assert result.log_evidence == pytest.approx(-math.log(2), abs=5 * result.log_evidence_se)
    assert result.log_evidence_se < 0.15
    assert not bool(result.log_weights.isnan().any())
    alive = result.log_weights.isfinite()
    assert bool((result.draws[alive, 0] < 0).all())


def test_gradients_that_are_not_finite_are_survived():
    def log_density(x):  # the gradient of the square root is infinite at zero, NaN below
        return Normal(0.0, 1.0).log_prob(x).sum(-1) + 0 * x[:, 0].clamp(min=0).sqrt()

    result = _annealed.annealed_importance_sampling(
        log_density, wide(zeros(2), zeros(2) + 3), num_temperatures=100
    )
    assert abs(result.log_evidence) < max(4 * result.log_evidence_se, 0.3)


def test_no_finite_value_is_refused():
    with pytest.raises(ValueError, match="no finite value of the target"):
        _annealed.annealed_importance_sampling(
            lambda x: x.sum(-1) * math.nan, wide(zeros(2), zeros(2) + 1)
        )


@pytest.mark.parametrize("name", ["num_chains", "num_temperatures", "leapfrog_steps"])
def test_counts_must_be_positive(name):
    start = wide(zeros(1), zeros(1) + 1)
    with pytest.raises(ValueError, match=f"{name}=0"):
        _annealed.annealed_importance_sampling(start.log_prob, start, **{name: 0})


def test_draws_follow_the_seed_alone():
    start, target = wide(zeros(2), zeros(2) + 2), wide(zeros(2), zeros(2) + 1)
    options = {"num_chains": 20, "num_temperatures": 5}
    before = torch.get_rng_state()
    runs = [
        _annealed.annealed_importance_sampling(target.log_prob, start, seed=seed, **options)
        for seed in (1, 1, 2)
    ]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(runs[0].draws, runs[1].draws)
    assert not torch.equal(runs[0].draws, runs[2].draws)
    assert "AnnealedResult(log_evidence=" in repr(runs[0])


def test_resampling_keeps_the_heavy_chains():
    chains = Chains(lambda x: -x.square().sum(-1), wide(zeros(2), zeros(2) + 1), None, 6)
    kept = chains.positions[4].clone()
    weights = torch.full((6,), -math.inf, dtype=torch.float64)
    weights[4] = 0.0
    chains.resample(weights)
    assert bool((chains.positions == kept).all())
    chains.resample(torch.full_like(weights, -math.inf))  # nothing to choose by: as it was
    assert bool((chains.positions == kept).all())


# Of a model


def conjugate(y):
    z = pyro.sample("z", dist.Normal(torch.zeros(3, dtype=y.dtype), 2.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(torch.zeros((), dtype=y.dtype), 0.5))
    # The scale is not seen by the data, so that the evidence is known.
    pyro.sample("unseen", dist.Normal(scale.detach() * 0, 1.0), obs=torch.zeros_like(scale))
    pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)


def log_evidence(y):
    unseen = dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.0))
    return float(dist.Normal(0.0, 5**0.5).log_prob(y).sum() + unseen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inflate", [10.0, None])
def test_evidence_of_a_model(dtype, inflate):
    y = torch.tensor([1.0, -1.0, 0.5], dtype=dtype)
    guide = AutoFlow(conjugate, init_scale=1.0).setup(y)
    steps = 60 if inflate else 15
    result = annealed_importance_sampling(
        conjugate, guide, y, inflate=inflate, num_chains=300, num_temperatures=steps
    )
    error = result.log_evidence - log_evidence(y)
    assert abs(error) < max(4 * result.log_evidence_se, 0.1)
    assert {n: v.shape for n, v in result.samples.items()} == {"z": (300, 3), "scale": (300,)}
    assert result.samples["z"].dtype == dtype
    assert result.draws.dtype == torch.float64
    assert all(p.grad is None for p in guide.parameters())


def test_another_continuous_guide():
    y = torch.tensor([1.0, -1.0, 0.5])
    guide = AutoMultivariateNormal(conjugate)  # it has not seen the arguments yet
    result = annealed_importance_sampling(conjugate, guide, y, num_chains=200, num_temperatures=40)
    assert abs(result.log_evidence - log_evidence(y)) < max(4 * result.log_evidence_se, 0.2)


def hand_written(y):
    pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    pyro.sample("z", dist.Normal(y, 1.0).to_event(1))


def test_a_guide_written_by_hand():
    y = torch.tensor([1.0, -1.0, 0.5])
    result = annealed_importance_sampling(
        conjugate, hand_written, y, num_chains=200, num_temperatures=40, inflate=3.0
    )
    assert abs(result.log_evidence - log_evidence(y)) < max(4 * result.log_evidence_se, 0.2)
    with pytest.raises(TypeError, match="inflate=None"):
        annealed_importance_sampling(conjugate, hand_written, y, inflate=None)


def test_keyword_arguments_reach_model_and_guide():
    def model(*, shift):
        pyro.sample("z", dist.Normal(shift, 1.0))

    guide = AutoFlow(model).setup(shift=2.0)
    result = annealed_importance_sampling(
        model, guide, num_chains=300, num_temperatures=30, model_kwargs={"shift": 2.0}
    )
    weights = torch.softmax(result.log_weights, 0)
    assert float((weights * result.samples["z"]).sum()) == pytest.approx(2, abs=0.4)


def test_subsampled_data_are_refused():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y), subsample_size=3) as index:
            pyro.sample("y", dist.Normal(z, 1.0), obs=y[index])

    y = torch.zeros(10)
    with pytest.raises(ValueError, match="subsamples a plate"):
        annealed_importance_sampling(model, AutoFlow(model).setup(y), y)


def test_a_guide_that_diverged_is_refused():
    y = torch.zeros(3)
    guide = AutoFlow(conjugate).setup(y)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(ValueError, match="not finite"):
        annealed_importance_sampling(conjugate, guide, y)
    with pytest.raises(ValueError, match=r"inflate=-1"):
        annealed_importance_sampling(conjugate, guide, y, inflate=-1.0)
