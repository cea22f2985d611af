"""Importance weights: Pareto smoothing, evidence, resampling."""

from __future__ import annotations

import math
import sys
import types
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal

from pyro_nf.infer._psis import diagnostics, evidence, psis
from pyro_nf.infer.autoguide import AutoFlow
from pyro_nf.infer.importance import _resample, importance_resample

torch.set_num_threads(1)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz


def heavy_tailed(count=4000):
    torch.manual_seed(1)
    return torch.randn(count, dtype=torch.float64) * 1.2


# Smoothing


def test_smoothing_is_that_of_arviz():
    log_weights = heavy_tailed()
    smoothed, k_hat = psis(log_weights)
    expected, expected_k = arviz.psislw(log_weights.numpy())
    np.testing.assert_allclose(smoothed.numpy(), expected)
    assert k_hat == float(expected_k)
    assert float(smoothed.exp().sum()) == pytest.approx(1)


def test_version_1_of_arviz(monkeypatch):
    """Its smoothing lies elsewhere, takes log likelihoods and leaves a constant factor."""
    log_weights = heavy_tailed()
    expected, expected_k = psis(log_weights)

    class ArrayStats:
        def psislw(self, ary, r_eff=1, axis=-1):
            smoothed, k_hat = _smooth(-ary, normalize=False)
            return smoothed, np.float64(k_hat)

    _smooth = arviz.psislw
    base = types.ModuleType("arviz_stats.base")
    base.array_stats = ArrayStats()
    monkeypatch.setitem(sys.modules, "arviz", types.ModuleType("arviz"))
    monkeypatch.setitem(sys.modules, "arviz_stats.base", base)
    smoothed, k_hat = psis(log_weights)
    torch.testing.assert_close(smoothed, expected)
    assert k_hat == pytest.approx(expected_k)


@pytest.mark.parametrize("value", [-math.inf, math.nan, math.inf])
def test_weights_that_are_not_finite_are_zero(value):
    log_weights = heavy_tailed()
    kept, k_hat = psis(log_weights)
    smoothed, other = psis(torch.cat([log_weights, torch.full((50,), value)]))
    torch.testing.assert_close(smoothed[:-50], kept)
    assert other == k_hat
    assert bool((smoothed[-50:] == -math.inf).all())


def test_smoothing_without_a_tail():
    assert psis(torch.zeros(1000))[1] == 0.0  # all alike
    assert psis(torch.randn(10))[1] == math.inf  # too few to tell
    torch.testing.assert_close(psis(torch.zeros(4))[0].exp(), torch.full((4,), 0.25).double())
    with pytest.raises(ValueError, match="none is finite"):
        psis(torch.full((30,), -math.inf))


def test_smoothing_leaves_its_argument_alone():
    log_weights = heavy_tailed()
    before = log_weights.clone()
    psis(log_weights)
    assert torch.equal(before, log_weights)


# Numbers


def test_diagnostics_of_a_gaussian_pair():
    """Log weights of N(0, 1) against draws of N(0, s²) have moments in closed form."""
    scale = 1.2
    torch.manual_seed(0)
    x = scale * torch.randn(200_000, dtype=torch.float64)
    log_p, log_q = dist.Normal(0.0, 1.0).log_prob(x) + 3, dist.Normal(0.0, scale).log_prob(x)
    numbers = diagnostics(log_p, log_q)
    elbo = 3 + math.log(scale) + 0.5 * (1 - scale**2)
    assert numbers.elbo == pytest.approx(elbo, abs=4 * numbers.elbo_se)
    assert numbers.log_evidence == pytest.approx(3, abs=4 * numbers.log_evidence_se)
    variance = 0.5 * (scale**2 - 1) ** 2
    assert numbers.var_log_w == pytest.approx(variance, rel=0.05)
    # E w² = s² / sqrt(2 s² - 1)
    assert numbers.ess == pytest.approx(math.sqrt(2 * scale**2 - 1) / scale**2, rel=0.01)
    assert numbers.k_hat < 0.3
    assert numbers.is_good
    assert numbers.k_hat_matters
    assert (numbers.draws, numbers.non_finite) == (200_000, 0)


def test_standard_error_of_the_evidence():
    torch.manual_seed(0)
    log_weights = 0.5 * torch.randn(500, 1000, dtype=torch.float64)
    results = [evidence(row) for row in log_weights]
    spread = torch.tensor([r[0] for r in results]).std()
    stated = torch.tensor([r[1] for r in results]).mean()
    assert float(stated / spread) == pytest.approx(1, abs=0.1)


def test_draws_without_a_finite_weight_count_in_the_evidence_alone():
    log_weights = heavy_tailed()
    padded = torch.cat([log_weights, torch.tensor([-math.inf, math.nan, math.inf, -math.inf])])
    few, more = (diagnostics(w, torch.zeros_like(w)) for w in (log_weights, padded))
    assert more.non_finite == 4
    assert (more.elbo, more.k_hat, more.var_log_w) == (few.elbo, few.k_hat, few.var_log_w)
    share = len(log_weights) / len(padded)
    assert more.log_evidence == pytest.approx(few.log_evidence + math.log(share))
    assert more.ess == pytest.approx(few.ess * share)


def test_no_finite_weight_at_all():
    numbers = diagnostics(torch.full((40,), -math.inf), torch.zeros(40))
    assert (numbers.elbo, numbers.log_evidence, numbers.ess) == (-math.inf, -math.inf, 0.0)
    assert not numbers.is_good


def test_k_hat_is_moot_near_perfection():
    torch.manual_seed(3)
    tiny = 1e-4 * torch.distributions.StudentT(1.0).sample((2000,)).clamp(-500, 500)
    numbers = diagnostics(tiny, torch.zeros_like(tiny))
    assert numbers.k_hat > 0.7
    assert not numbers.k_hat_matters
    assert numbers.is_good


@pytest.mark.parametrize("shapes", [((3,), (4,)), ((2, 3), (2, 3)), ((0,), (0,))], ids=str)
def test_shapes_of_log_densities_are_checked(shapes):
    with pytest.raises(ValueError, match="log_p of shape"):
        diagnostics(*(torch.zeros(shape) for shape in shapes))


# Resampling


def conjugate(y):
    z = pyro.sample("z", dist.Normal(torch.zeros_like(y), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)


Y = torch.tensor([1.0, -2.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_corrected(dtype):
    y = Y.to(dtype)
    guide = AutoFlow(conjugate, init_scale=1.0).setup(y)  # at 0, with the prior's scale
    result = importance_resample(conjugate, guide, y, num_draws=20_000, num_samples=20_000)
    z = result.samples["z"]
    assert z.shape == (20_000, 2)
    assert z.dtype == dtype
    torch.testing.assert_close(z.mean(0), y / 2, rtol=0, atol=0.03)
    torch.testing.assert_close(z.std(0), torch.full_like(y, 0.5**0.5), rtol=0, atol=0.03)
    exact = float(dist.Normal(0.0, 2**0.5).log_prob(y).sum())
    assert result.log_evidence == pytest.approx(exact, abs=4 * result.log_evidence_se)
    assert result.log_evidence_se < 0.05
    assert result.k_hat < 0.7
    assert 0.1 < result.ess < 0.9
    assert result.log_weights.shape == (20_000,)
    assert "ImportanceResult(log_evidence=" in repr(result)


def test_the_seed_decides_and_the_global_generator_stays():
    guide = AutoDiagonalNormal(conjugate, init_scale=1.0)
    guide(Y)
    options = {"num_draws": 100, "num_samples": 10}
    before = torch.get_rng_state()
    runs = [importance_resample(conjugate, guide, Y, seed=s, **options) for s in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(runs[0].samples["z"], runs[1].samples["z"])
    assert not torch.equal(runs[0].samples["z"], runs[2].samples["z"])


def test_draws_of_zero_density_are_never_chosen():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("positive", torch.where(z > 0, 0.0, -math.inf))

    guide = AutoFlow(model, init_scale=1.0).setup()
    result = importance_resample(model, guide, num_draws=2000, num_samples=3000)
    assert bool((result.samples["z"] > 0).all())
    assert result.log_evidence == pytest.approx(-math.log(2), abs=0.1)
    assert 800 < result.diagnostics.non_finite < 1200


def test_nothing_of_positive_density_is_refused():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("never", torch.where(z > 100, 0.0, -math.inf))

    with pytest.raises(ValueError, match="none has a finite weight"):
        importance_resample(model, AutoFlow(model).setup(), num_draws=50)


def test_a_large_k_hat_warns():
    guide = AutoFlow(conjugate, init_scale=0.1).setup(Y)
    with pytest.warns(UserWarning, match="cannot be trusted"):
        result = importance_resample(conjugate, guide, Y, num_draws=1000)
    assert result.k_hat > 0.7


def test_subsampled_data_are_refused():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y), subsample_size=3) as index:
            pyro.sample("y", dist.Normal(z, 1.0), obs=y[index])

    y = torch.zeros(10)
    with pytest.raises(ValueError, match="subsamples a plate"):
        importance_resample(model, AutoFlow(model).setup(y), y)


def test_counts_must_be_positive():
    guide = AutoFlow(conjugate)
    for name in ("num_draws", "num_samples"):
        with pytest.raises(ValueError, match=f"{name}=0"):
            importance_resample(conjugate, guide, Y, **{name: 0})


def test_systematic_resampling_keeps_the_counts():
    weights = torch.tensor([0.5, 0.0, 0.25, 0.25, 0.0], dtype=torch.float64)
    chosen = _resample(weights.log(), 8)
    assert torch.bincount(chosen, minlength=5).tolist() == [4, 0, 2, 2, 0]
    assert _resample(weights.log(), 1).shape == (1,)
