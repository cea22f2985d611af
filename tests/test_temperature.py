"""Flows at a temperature: the base's spread, and densities that stay densities."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from cases import perturb
from torch import nn

from pyro_nf.bijections import Affine, RationalQuadraticSpline
from pyro_nf.distributions import (
    Dequantized,
    DiagonalNormal,
    Flow,
    GaussianMixture,
    StudentT,
    UniformBox,
)
from pyro_nf.transforms import Autoregressive, Coupling, Logit, LULinear

torch.set_num_threads(1)


class Given(nn.Module):
    """A base that is one distribution."""

    def __init__(self, distribution) -> None:
        super().__init__()
        self.distribution = distribution

    def forward(self, context=None):
        return self.distribution


def learned_normal() -> DiagonalNormal:
    base = DiagonalNormal(2, parameters="learned")
    with torch.no_grad():
        base.loc.copy_(torch.tensor([1.0, -2.0]))
        base.log_scale.copy_(torch.tensor([0.3, -0.2]))
    return base


def mixture() -> GaussianMixture:
    base = GaussianMixture(2, 3)
    perturb(base, 0.5)
    return base


BASES = {
    "normal": lambda: DiagonalNormal(2),
    "learned normal": learned_normal,
    "student": lambda: StudentT(2, df=8.0),
    "fixed student": lambda: StudentT(2, df=8.0, parameters="fixed"),
    "mixture": mixture,
    "Laplace": lambda: Given(dist.Laplace(torch.ones(2), 1.0).to_event(1)),
    "multivariate": lambda: Given(
        dist.MultivariateNormal(torch.ones(2), torch.tensor([[1.0, 0.5], [0.5, 2.0]]))
    ),
}


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("temperature", [0.5, 2])
def test_scales_the_spread_and_stays_a_density(name: str, temperature: float) -> None:
    torch.manual_seed(0)
    flow = Flow(BASES[name](), LULinear(2))
    hot, plain = flow(temperature=temperature), flow()
    assert hot.event_shape == plain.event_shape
    if name != "mixture":  # its components spread about their own locations
        draws = hot.sample((40000,)).std(0) / plain.sample((40000,)).std(0)
        torch.testing.assert_close(draws, torch.full((2,), float(temperature)), rtol=0.06, atol=0)
    side = torch.linspace(-20, 20, 801)
    grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
    mass = hot.log_prob(grid).exp().sum().item() * 0.05**2
    assert mass == pytest.approx(1, abs=5e-3)
    assert flow().log_prob(grid[400, 400]).item() == plain.log_prob(grid[400, 400]).item()


def test_is_the_normal_with_the_other_scale() -> None:
    flow = Flow(base := learned_normal(), Coupling(RationalQuadraticSpline(bins=4), 2))
    perturb(flow.transform, 0.5)
    x = torch.randn(50, 2)
    other = Flow(DiagonalNormal(2, parameters="learned"), flow.transform)
    with torch.no_grad():
        other.base.loc.copy_(base.loc)
        other.base.log_scale.copy_(base.log_scale + math.log(0.7))
    torch.testing.assert_close(flow(temperature=0.7).log_prob(x), other().log_prob(x))
    torch.testing.assert_close(flow(temperature=1).log_prob(x), flow().log_prob(x))


def test_with_contexts_draws_and_gradients() -> None:
    base = DiagonalNormal(3, context_dim=2)
    flow = Flow(base, Autoregressive(Affine(), 3, fast="log_prob", context_dim=2))
    perturb(flow, 0.3)
    context = torch.randn(7, 2)
    d = flow(context, temperature=0.7)
    assert d.batch_shape == (7,)
    draws = d.rsample((4,))
    d.log_prob(draws).sum().backward()
    assert all(p.grad is not None for p in flow.parameters())
    torch.testing.assert_close(d.log_prob(draws), d.log_prob(draws.clone()), atol=1e-4, rtol=1e-5)
    assert d.expand((2, 7)).sample().shape == (2, 7, 3)


def test_towards_zero_draws_approach_the_mode() -> None:
    flow = Flow(DiagonalNormal(2), LULinear(2))
    assert flow(temperature=1e-6).sample((100,)).abs().max() < 1e-4


def test_compiled_flows_too() -> None:
    flow = Flow(DiagonalNormal(2), LULinear(2)).compile(backend="eager")
    x = torch.randn(5, 2)
    want = Flow(flow.base, flow.transform)(temperature=0.5).log_prob(x)
    torch.testing.assert_close(flow(temperature=0.5).log_prob(x), want)
    assert not torch.allclose(flow().log_prob(x), want)


def test_of_integers() -> None:
    torch.manual_seed(0)
    flow = Flow(DiagonalNormal(2), [LULinear(2), Logit(0.0, event_dim=1)])
    module = Dequantized(flow, 64)
    cold = module(temperature=0.2)
    draws = cold.sample((4000,)).float()
    assert draws.std() < 0.4 * module().sample((4000,)).float().std()
    x = cold.sample((50,))
    assert (cold.log_prob(x) > module().log_prob(x)).all()


def test_refuses() -> None:
    box = Flow(UniformBox(2, -1.0, 1.0), LULinear(2))
    with pytest.raises(
        TypeError, match="temperature=0.5 and has a base distribution Uniform.*Dia"
    ):
        box(temperature=0.5)
    assert box(temperature=1.0).event_shape == (2,)
    flow = Flow(DiagonalNormal(2), LULinear(2))
    for wrong, kind in ((0.0, ValueError), (-1, ValueError), (math.inf, ValueError)):
        with pytest.raises(kind, match=f"A flow got temperature={wrong}"):
            flow(temperature=wrong)
    with pytest.raises(TypeError, match="temperature='hot'"):
        flow(temperature="hot")
