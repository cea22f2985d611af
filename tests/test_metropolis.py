"""Independence Metropolis-Hastings: the scan, the stationary distribution, what is refused."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_nf.infer.autoguide import AutoFlow
from pyro_nf.infer.metropolis import _longest_stay, accepted_states, independence_metropolis

torch.set_num_threads(1)


def conjugate(y):
    z = pyro.sample("z", dist.Normal(torch.zeros_like(y), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(torch.zeros_like(y[0]), 1.0))
    pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)
    return scale


Y = torch.tensor([1.0, -2.0])


def test_the_scan_is_that_of_one_chain_after_another():
    torch.manual_seed(0)
    log_weights = 2 * torch.randn(30, 4, dtype=torch.float64)
    log_weights[0, 1], log_weights[3, 2], log_weights[5, 0] = -math.inf, math.nan, math.inf
    thresholds = torch.rand(30, 4, dtype=torch.float64).log()
    states = accepted_states(log_weights, thresholds)
    for chain in range(4):
        weights = [w if math.isfinite(w) else -math.inf for w in log_weights[:, chain].tolist()]
        at, expected = 0, [0]
        for step in range(1, 30):
            if weights[step] > -math.inf and thresholds[step, chain] < weights[step] - weights[at]:
                at = step
            expected.append(at)
        assert states[:, chain].tolist() == expected


def test_a_chain_leaves_zero_density_and_never_returns():
    log_weights = torch.tensor([-math.inf, -math.inf, 0.0, -math.inf, 1.0])[:, None]
    thresholds = torch.full((5, 1), -1e-9)
    assert accepted_states(log_weights, thresholds)[:, 0].tolist() == [0, 0, 2, 2, 4]


def test_the_scan_has_the_target_as_its_stationary_distribution():
    """On three states with a uniform proposal, against the target's probabilities."""
    torch.manual_seed(0)
    target = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    proposed = torch.randint(3, (2000, 50))
    states = accepted_states(target[proposed].log(), torch.rand(2000, 50).double().log())
    visited = proposed.gather(0, states)[100:].flatten()
    frequencies = torch.bincount(visited, minlength=3) / len(visited)
    torch.testing.assert_close(frequencies.double(), target, rtol=0, atol=0.01)


def test_longest_stay():
    moved = torch.tensor([[1, 0, 1, 1, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1, 1, 1]], dtype=torch.bool)
    assert _longest_stay(moved.T) == 4
    assert _longest_stay(moved[1:].T) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_those_of_the_posterior(dtype):
    y = Y.to(dtype)
    guide = AutoFlow(conjugate, init_scale=1.0).setup(y)  # at 0, with the prior's scale
    result = independence_metropolis(conjugate, guide, y, num_samples=2500, num_chains=8)
    z = result.samples["z"]
    assert z.shape == (8, 2500, 2)
    assert z.dtype == dtype
    assert result.samples["scale"].shape == (8, 2500)
    torch.testing.assert_close(z.mean((0, 1)), y / 2, rtol=0, atol=0.05)
    torch.testing.assert_close(z.std((0, 1)), torch.full_like(y, 0.5**0.5), rtol=0, atol=0.05)
    repeated = (z[:, 1:] == z[:, :-1]).all(-1).double().mean()
    assert 1 - float(repeated) == pytest.approx(result.acceptance, abs=0.01)
    assert "MetropolisResult(acceptance=" in repr(result)


def test_an_exact_guide_is_always_accepted():
    def model():
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    guide = AutoFlow(model, init_scale=1.0).setup()
    result = independence_metropolis(model, guide, num_samples=200, num_chains=3, warmup=0)
    assert result.acceptance > 0.999
    assert result.longest_stay <= 2


def test_a_narrow_guide_gets_stuck_and_says_so():
    guide = AutoFlow(conjugate, init_scale=0.2).setup(Y)
    result = independence_metropolis(conjugate, guide, Y, num_samples=500)
    assert result.longest_stay > 50
    assert result.acceptance < 0.5


def test_the_seed_decides_and_the_global_generator_stays():
    guide = AutoFlow(conjugate, init_scale=1.0).setup(Y)
    before = torch.get_rng_state()
    runs = [
        independence_metropolis(conjugate, guide, Y, num_samples=20, seed=s) for s in (0, 0, 1)
    ]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(runs[0].samples["z"], runs[1].samples["z"])
    assert not torch.equal(runs[0].samples["z"], runs[2].samples["z"])


def test_a_model_that_is_zero_wherever_the_guide_draws():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("never", torch.where(z > 100, 0.0, -math.inf))

    with pytest.raises(ValueError, match="no proposal with a finite weight"):
        independence_metropolis(model, AutoFlow(model).setup(), num_samples=10)


def test_counts_are_checked():
    guide = AutoFlow(conjugate)
    for name, value in (("num_samples", 0), ("num_chains", 0), ("warmup", -1)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            independence_metropolis(conjugate, guide, Y, **{name: value})
