"""The prior over sequences of vectors: its factors, its causality, its draws, its fit."""

from __future__ import annotations

import copy
import math
import pickle

import pyro.distributions as dist
import pytest
import torch
from case import perturb

from pyro_nf import flows, infer
from pyro_nf.distributions import AutoregressivePrior, Flow, GaussianMixture

torch.set_num_threads(1)

SMALL = {"transforms": 1, "hidden_dims": (8,), "activation": "tanh"}


def prior(length=4, size=2, *, context_dim=0, name="maf") -> AutoregressivePrior:
    torch.manual_seed(0)
    flow = getattr(flows, name)(size, context_dim=5, **SMALL)
    made = AutoregressivePrior(flow, length, context_dim=context_dim)
    perturb(made, 0.4)
    return made


def test_sequence_score_is_the_product_of_its_factors():
    """Step by step: each factor a flow of the state that a cell makes of what came before."""
    made = prior(4, 2, context_dim=3)
    context = torch.randn(6, 3)
    z = made(context).sample()
    state, total = made.first(context), 0.0
    for t in range(4):
        total = total + made.flow(state).log_prob(z[:, t])
        seen = made.normalize.inverse_and_ladj(z[:, t])[0]
        state = made.cell(seen.unsqueeze(1), state.unsqueeze(0))[1].squeeze(0)
    torch.testing.assert_close(made(context).log_prob(z), total)
    torch.testing.assert_close(made(context).log_factors(z).sum(-1), total)


def test_sequence_draws_follow_its_factors():
    """The noise that made each vector is normal, and the same whether drawn or scored."""
    made = prior(3, 1, name="nsf")
    distribution = made()
    z = distribution.sample((4000,))
    states = made.states(z, made.first_state)
    noise = made.flow.transform.inverse_and_ladj(z, states)[0].squeeze(-1)  # (4000, 3)
    assert noise.mean(0).abs().max() < 0.06
    torch.testing.assert_close(torch.cov(noise.T), torch.eye(3), atol=0.1, rtol=0)


def test_sequence_is_causal():
    made = prior(5, 2).double()
    z = torch.randn(5, 2, dtype=torch.float64)
    by_z = torch.autograd.functional.jacobian(made().log_factors, z)  # (5, 5, 2)
    reads = by_z.abs().sum(-1) > 0
    assert torch.equal(reads, torch.ones(5, 5, dtype=torch.bool).tril())
    states = torch.autograd.functional.jacobian(lambda z: made.states(z, made.first_state), z)
    assert torch.equal(states.abs().sum((1, 3)) > 0, torch.ones(5, 5, dtype=torch.bool).tril(-1))


def test_sequence_density_integrates_to_one():
    made = prior(2, 1).double()
    grid = torch.linspace(-16, 16, 321, dtype=torch.float64)
    z = torch.cartesian_prod(grid, grid).unsqueeze(-1)  # (321 * 321, 2, 1)
    with torch.no_grad():
        density = made().log_prob(z).exp().view(321, 321)
    assert abs(torch.trapezoid(torch.trapezoid(density, grid), grid) - 1) < 1e-3


@pytest.mark.parametrize("batch", [(), (1,), (0,), (5,), (4, 5)], ids=str)
@pytest.mark.parametrize("length", [1, 3])
def test_sequence_shapes(batch, length):
    made = prior(length, 2, context_dim=3)
    distribution = made(torch.randn(*batch, 3))
    assert distribution.batch_shape == batch
    assert distribution.event_shape == (length, 2)
    draws = distribution.rsample((7,))
    assert draws.shape == (7, *batch, length, 2)
    assert distribution.log_prob(draws).shape == (7, *batch)
    torch.testing.assert_close(distribution.log_prob(draws)[3], distribution.log_prob(draws[3]))
    assert distribution.expand((2, *batch)).sample().shape == (2, *batch, length, 2)


def test_a_fresh_sequence_is_standard_normal():
    made = AutoregressivePrior(flows.nsf(2, context_dim=8), 3)
    z = torch.randn(6, 3, 2)
    want = dist.Normal(0.0, 1.0).log_prob(z).sum((1, 2))
    torch.testing.assert_close(made().log_prob(z), want)


def test_sequence_gradients():
    made = prior(3, 2, context_dim=1)
    context = torch.randn(6, 1, requires_grad=True)
    z = made(context).rsample()
    assert z.requires_grad
    made(context).log_prob(z).sum().backward()
    assert context.grad.abs().sum() > 0
    for name, parameter in made.named_parameters():
        if not name.endswith("center"):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_sequence_learns_an_autoregression():
    """z_t = 0.9 z_{t-1} + 0.3 e from its stationary law: the exact entropy is known."""
    noise = torch.randn(1000, 4, 1, generator=torch.Generator().manual_seed(0))
    steps = [noise[:, 0] * 0.3 / (1 - 0.81) ** 0.5]
    for t in range(1, 4):
        steps.append(0.9 * steps[-1] + 0.3 * noise[:, t])
    z = 100 + 5 * torch.stack(steps, 1)
    made = AutoregressivePrior(flows.maf(1, transforms=1, context_dim=8, hidden_dims=[16]), 4)
    result = infer.fit_density(made, z, max_steps=200, learning_rate=0.02, progress=False)
    entropy = 4 * (0.5 * math.log(2 * math.pi * math.e) + math.log(5 * 0.3))
    entropy -= 0.5 * math.log(1 - 0.81)
    assert result.best_loss < entropy + 0.25
    draws = made().sample((2000,)).squeeze(-1)
    assert abs(torch.corrcoef(draws[:, 2:4].T)[0, 1] - 0.9) < 0.08


def test_sequence_copies_pickles_and_restores():
    made, z = prior(), torch.randn(5, 4, 2)
    want = made().log_prob(z)
    other = AutoregressivePrior(flows.maf(2, context_dim=5, **SMALL), 4)
    other.load_state_dict(made.state_dict())
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), other):
        torch.testing.assert_close(twin().log_prob(z), want)


def test_sequence_without_gradients_says_so():
    base = GaussianMixture(2, components=2)
    made = AutoregressivePrior(Flow(base, flows.maf(2, context_dim=4, **SMALL).transform), 3)
    assert not made().has_rsample
    assert made().sample((5,)).shape == (5, 3, 2)


def test_bad_sequences_are_refused():
    with pytest.raises(ValueError, match="context_dim=0"):
        AutoregressivePrior(flows.maf(2), 3)
    with pytest.raises(TypeError, match="flow of type FlowDistribution"):
        AutoregressivePrior(flows.maf(2)(), 3)
    with pytest.raises(ValueError, match="length=0"):
        AutoregressivePrior(flows.maf(2, context_dim=4), 0)
    with pytest.raises(ValueError, match=r"event shape \(4, 2\).*\(5, 2\)"):
        prior()().log_prob(torch.zeros(5, 2))
    with pytest.raises(ValueError, match="got no context"):
        prior(context_dim=3)()
    with pytest.raises(ValueError, match=r"got \[inf, .*, \.\.\.\].*codomain of ActNorm"):
        prior()().log_prob(torch.full((4, 2), torch.inf))
    with pytest.raises(ValueError, match=r"context \[nan, nan, nan\], which is not finite"):
        prior(context_dim=3)(torch.full((3,), torch.nan))
    assert repr(prior()()) == "FlowSequence(batch_shape=(), event_shape=(4, 2), transform=Compose)"
    with pytest.raises(TypeError, match=r"float32.*float64"):
        prior()().log_prob(torch.zeros(4, 2, dtype=torch.float64))
