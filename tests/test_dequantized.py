"""Flows of integers: the bound, its gradients, its place in Pyro's models, and bad input."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import perturb
from integer_flows import LEVELS, UNIT, images, integers, vectors
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch.distributions import constraints

from pyro_nf.bijections import Affine, RationalQuadraticSpline
from pyro_nf.distributions import (
    Dequantized,
    DequantizedDistribution,
    DiagonalNormal,
    Flow,
)
from pyro_nf.infer._validation import without_validation
from pyro_nf.transforms import Coupling, FlowTransform, Logit, Reshape

torch.set_num_threads(1)


def one_pixel() -> Flow:
    """A flow of one number in [0, 1] with a known distribution function, in float64."""
    base = DiagonalNormal(1, parameters="learned").double()
    with torch.no_grad():
        base.loc.fill_(0.6)
        base.log_scale.fill_(0.5)
    return Flow(base, Logit(alpha=0.0, event_dim=1))


def log_masses(flow: Flow) -> torch.Tensor:
    ends = torch.linspace(0, 1, LEVELS + 1, dtype=torch.float64).clamp(1e-15, 1 - 1e-15)
    return flow().cdf(ends.unsqueeze(-1)).diff().log()


# The bound


def test_more_draws_are_a_tighter_bound() -> None:
    torch.manual_seed(0)
    flow = one_pixel()
    exact = log_masses(flow)
    assert exact.exp().sum().item() == pytest.approx(1)
    d = Dequantized(flow, LEVELS)()
    x = torch.arange(LEVELS).unsqueeze(-1)
    below, error_below = -math.inf, 0.0
    for draws in (1, 4, 16):
        bounds = d.log_prob(x.expand(40000, LEVELS, 1), draws=draws).detach()
        error = bounds.std(0) / math.sqrt(len(bounds))
        assert (bounds.mean(0) <= exact + 4 * error).all()
        total, error_total = bounds.sum(-1).mean().item(), error.square().sum().sqrt().item()
        assert total > below + 4 * (error_below + error_total)
        below, error_below = total, error_total
    assert 0 < exact.sum().item() - below < 0.02
    torch.testing.assert_close(d.estimate_log_prob(x, 20000), exact, atol=0.02, rtol=0)


class Posterior(FlowTransform):
    """From a normal number to the noise of one pixel, distributed as the flow's own posterior."""

    context_dim, input_dim = 1, 1
    codomain = constraints.independent(UNIT, 1)

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        object.__setattr__(self, "flow", flow)

    def forward_and_ladj(self, x, context=None):
        d, normal = self.flow(), dist.Normal(x.new_zeros(()), 1.0)
        integer = ((context + 1) / 2 * (LEVELS - 1)).round()
        low = d.cdf((integer / LEVELS).clamp(1e-15))
        high = d.cdf(((integer + 1) / LEVELS).clamp(max=1 - 1e-15))
        y = d.icdf(low + normal.cdf(x).squeeze(-1) * (high - low))
        slope = math.log(LEVELS) + (high - low).log() + normal.log_prob(x).squeeze(-1)
        return LEVELS * y - integer, slope - d.log_prob(y)


def test_the_posterior_as_noise_is_exact_and_never_inverted() -> None:
    flow = one_pixel()
    noise = Flow(DiagonalNormal(1).double(), Posterior(flow))
    d = Dequantized(flow, LEVELS, dequantizer=noise)()
    x = torch.arange(LEVELS).unsqueeze(-1)
    for _ in range(3):  # whatever the draw; the noise's layer has no inverse to fall back on
        torch.testing.assert_close(d.log_prob(x), log_masses(flow), atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", ["uniform", "flow"])
def test_masses_sum_to_one(kind: str) -> None:
    torch.manual_seed(0)
    flow, noise = vectors(), vectors(context_dim=2)
    perturb(flow, 0.3)
    perturb(noise, 0.2)
    module = Dequantized(flow, 3, dequantizer="uniform" if kind == "uniform" else noise)
    x = torch.tensor(list(itertools.product(range(3), repeat=2)))
    assert module().estimate_log_prob(x, 20000).exp().sum().item() == pytest.approx(1, abs=0.02)


def test_frequencies_of_draws_are_the_masses() -> None:
    torch.manual_seed(0)
    flow = one_pixel()
    draws = Dequantized(flow, LEVELS)().sample((20000,))
    assert (draws.shape, draws.dtype) == ((20000, 1), torch.int64)
    seen = torch.bincount(draws.flatten(), minlength=LEVELS) / 20000
    torch.testing.assert_close(seen.double(), log_masses(flow).exp(), atol=0.015, rtol=0)


@pytest.mark.parametrize("draws", [1, 5])
def test_gradients_reach_both_flows(draws: int) -> None:
    flow, noise = vectors(), vectors(context_dim=2)
    perturb(flow, 0.3)
    perturb(noise, 0.3)
    module = Dequantized(flow, LEVELS, dequantizer=noise, draws=draws)
    module().log_prob(integers(7, 2)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_noise_gradient_is_that_of_the_bound() -> None:
    """The reparametrised gradient against finite differences of the same noise, in float64."""
    flow, noise = vectors().double(), vectors(context_dim=2).double()
    perturb(flow, 0.3)
    perturb(noise, 0.3)
    module, x = Dequantized(flow, LEVELS, dequantizer=noise), integers(5, 2)

    def bound() -> torch.Tensor:
        torch.manual_seed(1)
        return module().log_prob(x).sum()

    for part in (flow, noise):
        parameter = next(p for name, p in part.named_parameters() if "bias" in name)
        (gradient,) = torch.autograd.grad(bound(), parameter)
        with torch.no_grad():
            parameter.flatten()[0] += 1e-5
            up = bound()
            parameter.flatten()[0] -= 2e-5
            down = bound()
            parameter.flatten()[0] += 1e-5
        assert ((up - down) / 2e-5).item() == pytest.approx(
            gradient.flatten()[0].item(), rel=1e-4, abs=1e-7
        )


def test_bits_per_dim_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    from pyro_nf.distributions import dequantized, dequantized_distribution

    module, context = Dequantized(images(3), LEVELS), torch.randn(5, 3)
    perturb(module, 0.2)
    x = integers(2, 5, 1, 2, 3)
    whole = module.bits_per_dim(x, context, draws=3000)
    exact = -module(context).estimate_log_prob(x, 3000) / (6 * math.log(2))
    assert whole.shape == (2, 5)
    for part in (dequantized, dequantized_distribution):
        monkeypatch.setattr(part, "NUMBERS_AT_ONCE", 20)
    pieces = module.bits_per_dim(x, context, draws=300)
    torch.testing.assert_close(whole, exact, atol=0.05, rtol=0)
    torch.testing.assert_close(pieces, exact, atol=0.1, rtol=0)
    assert not pieces.requires_grad
    assert Dequantized(images(), 4).bits_per_dim(integers(0, 1, 2, 3)).shape == (0,)
    assert Dequantized(images(), 4).bits_per_dim(integers(1, 2, 3)).shape == ()
    assert module.bits_per_dim(integers(2, 0, 1, 2, 3), torch.zeros(0, 3)).shape == (2, 0)
    assert module.bits_per_dim(integers(0, 1, 2, 3), torch.zeros(3)).shape == (0,)


def test_a_fresh_flow_of_images_takes_two_bits_for_four_levels() -> None:
    module = Dequantized(vectors(4, bijection=RationalQuadraticSpline(bins=4)), LEVELS)
    x = integers(200, 4)
    module.initialize(x)
    assert module.bits_per_dim(x, draws=50).mean().item() == pytest.approx(2, abs=0.3)


# Shapes, dtypes and copies


def test_shapes() -> None:
    module = Dequantized(images(), 256)
    d = module()
    assert isinstance(d, DequantizedDistribution)
    assert (module.event_shape, module.input_dim, module.context_dim) == ((1, 2, 3), 6, 0)
    assert (d.batch_shape, d.event_shape, d.support.event_dim) == ((), (1, 2, 3), 3)
    x = d.sample((4, 2))
    assert x.shape == (4, 2, 1, 2, 3)
    assert d.support.check(x).all()
    assert d.log_prob(x).shape == d.log_prob(x, draws=3).shape == (4, 2)
    assert d.expand((6,)).sample((2,)).shape == (2, 6, 1, 2, 3)
    assert d.expand((6,)).log_prob(x[:, :1]).shape == (4, 6)
    assert d.log_prob(integers(0, 1, 2, 3)).shape == (0,)


@pytest.mark.parametrize("reads", [6, 9])
def test_shapes_with_a_context(reads: int) -> None:
    noise = Flow(
        DiagonalNormal(6),
        [
            Coupling(Affine(), 6, context_dim=reads, hidden_dims=(8,)),
            Reshape((6,), (1, 2, 3)),
            Logit(0.0),
        ],
    )
    module = Dequantized(images(3), 17, dequantizer=noise, draws=2)
    d = module(torch.randn(7, 3))
    assert (d.batch_shape, d.event_shape) == ((7,), (1, 2, 3))
    x = d.sample((11,))
    assert x.shape == (11, 7, 1, 2, 3)
    assert d.log_prob(x).shape == (11, 7)
    assert d.log_prob(x[0, 0]).shape == d.estimate_log_prob(x[0, 0], 5).shape == (7,)
    assert d.expand((4, 7)).log_prob(x[0]).shape == (4, 7)
    assert module(torch.randn(5, 1, 3)).log_prob(x[0]).shape == (5, 7)
    assert module(torch.randn(3)).log_prob(x).shape == (11, 7)
    assert module.bits_per_dim(x, torch.randn(7, 3)).shape == (11, 7)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.int64]
)
def test_any_integers(dtype: torch.dtype) -> None:
    d = Dequantized(images(), 100)()
    assert d.log_prob(integers(5, 1, 2, 3).to(dtype)).dtype == torch.float32


def test_eight_bits_below_more_levels() -> None:
    """256 compared with integers of 8 bits would be 0."""
    d = Dequantized(images(), 256)()
    assert d.log_prob(torch.full((1, 2, 3), 255, dtype=torch.uint8)).isfinite()
    assert Dequantized(images(), 300)().log_prob(torch.ones(1, 2, 3).to(torch.uint8)).isfinite()


def test_float64_and_meta() -> None:
    module = Dequantized(vectors(), 17, dequantizer=vectors(context_dim=2)).double()
    assert module().log_prob(integers(5, 2)).dtype == torch.float64
    with without_validation(), torch.device("meta"):
        d = Dequantized(images(), 17)()
        x = torch.zeros(5, 1, 2, 3, dtype=torch.uint8)
        assert d.log_prob(x, draws=2).shape == (5,)
        assert d.sample((5,)).shape == (5, 1, 2, 3)


def test_bfloat16_has_room_for_few_levels() -> None:
    assert Dequantized(images(), 4).bfloat16()().log_prob(integers(5, 1, 2, 3)).shape == (5,)
    with pytest.raises(ValueError, match=r"bfloat16, which rounds the noise away on more than 8"):
        Dequantized(images(), 256).bfloat16()()


def test_copies_and_state() -> None:
    module = Dequantized(vectors(), 17, dequantizer=vectors(context_dim=2))
    perturb(module, 0.3)
    module().log_prob(integers(5, 2))
    other = Dequantized(vectors(), 17, dequantizer=vectors(context_dim=2))
    other.load_state_dict(module.state_dict())
    for twin in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        scores = []
        for d in (module(), twin(), copy.deepcopy(twin())):
            torch.manual_seed(0)
            scores.append(d.log_prob(integers(5, 2)))
        assert torch.equal(scores[0], scores[1])
        assert torch.equal(scores[0], scores[2])
    assert "levels=17" in repr(module)


# In Pyro


def test_under_svi_and_predictive() -> None:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    decoder = Dequantized(images(2), 17, dequantizer="uniform")
    x = integers(20, 1, 2, 3, levels=17)
    before = {name: p.clone() for name, p in decoder.named_parameters()}

    def model(x=None):
        pyro.module("decoder", decoder)
        with pyro.plate("rows", 20):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            return pyro.sample("x", decoder(z), obs=x)

    def guide(x=None):
        loc = pyro.param("loc", torch.zeros(20, 2))
        with pyro.plate("rows", 20):
            pyro.sample("z", dist.Normal(loc, 0.1).to_event(1))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO(num_particles=2))
    assert all(math.isfinite(svi.step(x)) for _ in range(3))
    assert any(not torch.equal(before[n], p) for n, p in decoder.named_parameters())
    vectorized = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    assert math.isfinite(SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), vectorized).step(x))
    for parallel in (False, True):
        draws = Predictive(model, guide=guide, num_samples=4, parallel=parallel)()["x"]
        assert (draws.shape, draws.dtype) == ((4, 20, 1, 2, 3), torch.int64)
    pyro.clear_param_store()
