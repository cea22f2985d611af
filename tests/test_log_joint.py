"""The log joint density over many points: the ways to run a model, and the latents' space."""

from __future__ import annotations

import guide_models as models
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import Normal

from pyro_nf.infer._log_joint import LogJoint
from pyro_nf.infer.autoguide import AutoFlow


def log_joint(model, *args, guided=None, **options):
    guide = AutoFlow(guided or model).setup(*args)
    return LogJoint(model, args, {}, guide.latents, **options)


Y3 = torch.tensor([1.0, -0.5, 2.0])

CASES = {
    "plates": (models.schools, (models.Y, models.SIGMA), "plate"),
    "constrained": (models.positive, (), "plate"),
    "sum": (models.sums_over_particles, (torch.tensor(0.3),), "vmap"),
    "factor": (models.factor_over_particles, (), "vmap"),
    "branch": (models.branches, (), "loop"),
}


@pytest.mark.parametrize(("model", "args", "expected"), CASES.values(), ids=CASES)
def test_the_way_is_chosen_by_values(model, args, expected):
    assert log_joint(model, *args).particles == expected


@pytest.mark.parametrize(("model", "args", "expected"), CASES.values(), ids=CASES)
def test_it_has_the_values_of_single_runs(model, args, expected):
    target = log_joint(model, *args)
    z = 0.3 * torch.randn(5, target.space.dim)
    for i in range(5):
        values, ladj = target.space.constrain(z[i])
        trace = poutine.trace(poutine.condition(model, data=values)).get_trace(*args)
        assert target(z)[i] == pytest.approx(float(trace.log_prob_sum() + ladj), abs=1e-4)


def test_a_plate_over_a_sum_would_be_wrong_without_an_error():
    """What the test of values is for: the plate runs and gives other numbers."""
    wrong = log_joint(models.sums_over_particles, torch.tensor(0.3), particles="plate")
    right = log_joint(models.sums_over_particles, torch.tensor(0.3))
    z = torch.randn(5, 3)
    assert wrong(z).shape == right(z).shape
    assert (wrong(z) - right(z)).abs().max() > 0.1


def test_the_jacobian_of_constrained_sites_is_in():
    target = log_joint(models.positive)
    z = torch.randn(4, 2)
    expected = Normal(torch.tensor([0.5, -1.0]), 0.5).log_prob(z).sum(-1)
    torch.testing.assert_close(target(z), expected)


def test_discrete_sites_are_summed_out():
    guided = poutine.block(models.mixture, hide=["k"])
    target = log_joint(models.mixture, Y3, guided=guided)
    z = torch.randn(4, 2)
    prior = Normal(torch.tensor([-2.0, 2.0]), 0.5).log_prob(z).sum(-1)
    parts = Normal(z[:, None, :], 1.0).log_prob(Y3[:, None]) + torch.tensor([0.4, 0.6]).log()
    assert target.particles == "plate"
    torch.testing.assert_close(target(z), prior + parts.logsumexp(-1).sum(-1))


def test_subsampled_data_are_scaled_and_shared_by_all_rows():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y), subsample_size=5) as i:
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y[i])

    y = torch.randn(50)
    target = log_joint(model, y)
    assert target.subsampled
    assert target.particles == "plate"
    z = torch.full((6, 1), 0.3)
    assert target(z).unique().numel() == 1
    mean = torch.stack([target(z)[0] for _ in range(300)]).mean()
    full = Normal(0.0, 1.0).log_prob(torch.tensor(0.3)) + Normal(0.3, 1.0).log_prob(y).sum()
    assert float(mean) == pytest.approx(float(full), abs=4.0)


def test_float64_from_a_float32_model():
    target = log_joint(models.schools, models.Y, models.SIGMA)
    wide = target.in_float64()
    assert wide is not target
    z = torch.randn(3, 10, dtype=torch.float64)
    assert wide(z).dtype == torch.float64
    torch.testing.assert_close(wide(z).float(), target(z.float()), rtol=1e-4, atol=1e-4)
    assert torch.get_default_dtype() == torch.float32


def test_a_model_that_refuses_float64_keeps_its_dtype():
    weights = torch.randn(3, 3)

    def model():
        x = pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.factor("f", (x @ weights).sum(-1))

    target = log_joint(model)
    assert target.in_float64() is target


def test_gradients_reach_the_points():
    target = log_joint(models.sums_over_particles, torch.tensor(0.3))
    z = torch.randn(4, 3, requires_grad=True)
    target(z).sum().backward()
    assert z.grad.abs().min() > 0


def test_constrain_and_unconstrain_undo_each_other():
    space = AutoFlow(models.schools).setup(models.Y, models.SIGMA).latents
    z = torch.randn(4, 2, 10)
    values, ladj = space.constrain(z)
    assert values["theta"].shape == (4, 2, 8)
    assert ladj.shape == (4, 2)
    torch.testing.assert_close(space.unconstrain(values), z)
    assert space.sites["theta"].plates == {-1: "schools"}
