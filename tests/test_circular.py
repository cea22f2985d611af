"""Angles: the circular spline, networks that read periodic features, flows on the torus."""

from __future__ import annotations

import math

import pytest
import torch
from bijection_cases import random_inputs
from case import SMOOTH, perturb
from torch.autograd import grad
from torch.distributions import SigmoidTransform

from pyro_nf import bijections as B
from pyro_nf import flows, infer
from pyro_nf import transforms as T
from pyro_nf.distributions import DiagonalNormal, Flow, UniformBox
from pyro_nf.nn import MLP, MaskedMLP
from pyro_nf.transforms._sweep.sweep import sweep

SPLINES = {"turned": B.CircularSpline(bins=6), "fixed": B.CircularSpline(bins=4, phase="fixed")}
each_spline = pytest.mark.parametrize("spline", SPLINES.values(), ids=SPLINES)
each_direction = pytest.mark.parametrize("direction", ["forward", "inverse"])
WIRINGS = pytest.mark.parametrize("wiring", ["autoregressive", "coupling"])


def wrapped(angle):
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def angles(*shape):
    return (2 * torch.rand(*shape, dtype=torch.float64) - 1) * math.pi


@each_spline
def test_zero_parameters_are_the_identity(spline):
    x = angles(100)
    y, ladj = spline.forward(x, torch.zeros(spline.param_count, 100).double())
    torch.testing.assert_close(y, x, rtol=0, atol=1e-14)
    torch.testing.assert_close(ladj, torch.zeros_like(x), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_spline
def test_round_trip_on_the_circle(spline, dtype):
    x, params = angles(5000).to(dtype), 3 * torch.randn(spline.param_count, 5000, dtype=dtype)
    y, ladj = spline.forward(x, params)
    back, _ = spline.inverse(y, params)
    for values in (y, back):
        assert ((values >= -math.pi) & (values < math.pi)).all()
    eps = torch.finfo(dtype).eps
    # Flat places magnify the rounding of y.
    assert (wrapped(back - x).abs() * ladj.exp().clamp(max=1)).max() < 32 * eps


@each_direction
@each_spline
def test_log_derivative_is_autograds(spline, direction):
    _, params = random_inputs(spline, (300,))
    x = angles(300).requires_grad_()
    y, ladj = getattr(spline, direction)(x, params)
    torch.testing.assert_close(ladj.exp(), grad(y.sum(), x)[0])


def test_rounding_leads_to_no_angle_outside_of_the_circle():
    just_below = torch.linspace(-1e-15, 0, 50, dtype=torch.float64) - math.pi
    spline = SPLINES["fixed"]
    y, _ = spline.forward(just_below, torch.zeros(spline.param_count, 50).double())
    assert (y >= -math.pi).all()
    assert (y < math.pi).all()


@each_direction
@each_spline
def test_is_periodic(spline, direction):
    _, params = random_inputs(spline, (50,))
    x = angles(50)
    want = getattr(spline, direction)(x, params)
    for turns in (-2, 1):
        got = getattr(spline, direction)(x + 2 * math.pi * turns, params)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@each_spline
def test_the_slope_is_continuous_across_the_seam(spline):
    _, params = random_inputs(spline, (50,))
    end = torch.full((50,), math.pi, dtype=torch.float64)
    left, right = (spline.forward(e, params)[1] for e in (end - 1e-9, 1e-9 - end))
    torch.testing.assert_close(left, right, rtol=0, atol=1e-5)


def test_the_phase_turns_the_circle():
    spline = SPLINES["turned"]
    params = torch.zeros(spline.param_count, 4).double()
    params[-1] = torch.tensor([0.5, math.pi, -20.0, 100.0])
    x = angles(4)
    y, ladj = spline.forward(x, params)
    torch.testing.assert_close(y, wrapped(x + params[-1]))
    torch.testing.assert_close(ladj, torch.zeros_like(ladj))
    _, fixed_params = random_inputs(SPLINES["fixed"], (4,))
    ends = torch.full((4,), -math.pi, dtype=torch.float64)
    torch.testing.assert_close(SPLINES["fixed"].forward(ends, fixed_params)[0], ends)


def test_has_no_sign_and_so_no_quantiles():
    with pytest.raises(NotImplementedError, match="no monotone map"):
        flows.circular_nsf(1)().cdf(torch.zeros(3, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 1}, "bins=1"),
        ({"phase": "free"}, "'learned', 'fixed'"),
        ({"min_bin": 1.0}, "bins"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        B.CircularSpline(**options)


@pytest.mark.parametrize("hidden_dims", [(), (8, 8)], ids=str)
def test_periodic_networks_are_periodic_and_masked(hidden_dims):
    x = angles(3, 6)
    turned = x + 2 * math.pi * torch.tensor([[1.0], [-1.0], [3.0]]).double()
    masked = MaskedMLP(3, 2, hidden_dims, order=[2, 0, 1], features="periodic").double()
    for network in (MLP(3, 4, hidden_dims, features="periodic").double(), masked):
        perturb(network, 1.0)
        torch.testing.assert_close(network(turned), network(x))
        assert not torch.allclose(network(x + 0.1), network(x))
    want = torch.tensor([[0, 0, 1], [1, 0, 1], [0, 0, 0]]).bool()
    assert torch.equal(masked.depends_on(), want)
    x.requires_grad_()
    for i in range(3):
        (g,) = grad(masked(x).view(2, 3, 6)[:, i].sum(), x, allow_unused=True)
        assert torch.equal(g.abs().sum(1) > 0, want[i])


def test_periodic_networks_refuse_other_features():
    for family in (MLP, MaskedMLP):
        with pytest.raises(ValueError, match="'values', 'periodic'"):
            family(3, 2, features="angles")


@pytest.mark.parametrize("residual", ["none", "skip"])
@pytest.mark.parametrize("context_dim", [0, 2])
@pytest.mark.parametrize("hidden_dims", [(), (7,), (6, 6)], ids=str)
def test_the_sweeps_gradient_is_that_of_the_dense_map(hidden_dims, context_dim, residual):
    """Through the implicit function: the dense map at the solution, and its triangular system."""
    network = MaskedMLP(
        4,
        B.Affine().param_count,
        hidden_dims,
        order=[2, 0, 3, 1],
        context_dim=context_dim,
        activation="tanh",
        residual=residual,
        features="periodic",
    ).double()
    perturb(network, 0.5)
    context = torch.randn(5, context_dim).double() if context_dim else None
    y = torch.randn(4, 5).double().requires_grad_()
    leaves = [y, *network.parameters()]

    def dense(x):
        return B.Affine().forward(x, network(x, context).view(2, 4, 5))

    x, ladj = sweep(network, B.Affine(), y, context)
    found, dense_ladj = dense(x)
    torch.testing.assert_close(found, y)
    torch.testing.assert_close(ladj, -dense_ladj)
    weights = torch.randn(4, 5).double()
    gradients = grad(
        (weights * found).sum() + (ladj + dense_ladj).sum(), leaves, create_graph=True
    )
    torch.testing.assert_close(gradients[0], weights)
    for g in gradients[1:]:
        torch.testing.assert_close(g, torch.zeros_like(g), rtol=0, atol=1e-10)
    # The fast backward and the recorded one agree.
    plain = grad((weights * x).sum() + ladj.sin().sum(), leaves, retain_graph=True)
    recorded = grad((weights * x).sum() + ladj.sin().sum(), leaves, create_graph=True)
    torch.testing.assert_close(plain, recorded)


def perturbed_flow(wiring, context_dim=0):
    torch.manual_seed(0)
    flow = flows.circular_nsf(2, wiring=wiring, bins=5, context_dim=context_dim, **SMOOTH)
    flow = flow.double()
    perturb(flow, 0.2)  # more, and spikes fall between the points of a grid
    return flow


@WIRINGS
def test_densities_of_the_torus_integrate_to_one(wiring):
    flow, side = perturbed_flow(wiring, context_dim=1), 400
    grid = (torch.arange(side, dtype=torch.float64) + 0.5) * (2 * math.pi / side) - math.pi
    for c in (0.0, 1.5):
        with torch.no_grad():
            density = flow(torch.tensor([c]).double()).log_prob(torch.cartesian_prod(grid, grid))
        # The midpoint rule converges fast on periodic functions.
        assert (density.exp().mean() * (2 * math.pi) ** 2).item() == pytest.approx(1, abs=1e-3)


@WIRINGS
def test_densities_of_the_torus_are_continuous_across_the_seam(wiring):
    flow, other = perturbed_flow(wiring), angles(50)
    end = torch.full_like(other, math.pi)
    for left, right in (
        (torch.stack([end - 1e-9, other], -1), torch.stack([1e-9 - end, other], -1)),
        (torch.stack([other, end - 1e-9], -1), torch.stack([other, 1e-9 - end], -1)),
    ):
        torch.testing.assert_close(
            flow().log_prob(left), flow().log_prob(right), atol=1e-5, rtol=0
        )


@WIRINGS
def test_draws_lie_on_the_torus_and_score_finitely(wiring):
    flow = perturbed_flow(wiring).float()
    draws = flow().sample((2000,))
    assert ((draws >= -math.pi) & (draws < math.pi)).all()
    assert flow().log_prob(draws).isfinite().all()
    assert flow().log_prob(torch.tensor([math.pi, -math.pi])).isfinite()


def test_other_data_are_refused_with_the_remedy():
    flow, x = flows.circular_nsf(2), torch.zeros(10, 2)
    x[3, 1] = 4.0
    for score in (
        lambda: flow().log_prob(x),
        lambda: flow.initialize(x),
        lambda: infer.fit_density(flow, x, max_steps=1, progress=False),
    ):
        with pytest.raises(ValueError, match=r"3\.14.*torch\.remainder"):
            score()
    assert flow().log_prob(wrapped(x)).isfinite().all()
    assert isinstance(T.Coupling(B.CircularSpline(), 2).domain, type(flow().support))


def test_fits_correlated_angles():
    """The second angle is twice the first, plus von Mises noise: its entropy is known."""
    torch.manual_seed(0)
    concentration = torch.tensor(8.0)
    noise = torch.distributions.VonMises(torch.tensor(2.0), concentration).sample((4000,))
    first = angles(4000).float()
    x = torch.stack([first, wrapped(2 * first + noise)], -1)
    flow = flows.circular_nsf(2, transforms=2)
    infer.fit_density(flow, x[:3000], max_steps=150, progress=False)
    ratio = torch.special.i1e(concentration) / torch.special.i0e(concentration)
    log_normalizer = torch.special.i0e(concentration).log() + concentration
    entropy = 2 * math.log(2 * math.pi) + log_normalizer - concentration * ratio
    with torch.no_grad():
        assert -flow().log_prob(x[3000:]).mean() < entropy + 0.2


def test_bad_flow_options_are_refused():
    with pytest.raises(ValueError, match="an order"):
        flows.circular_nsf(3, wiring="coupling", order=[0, 1, 2])
    with pytest.raises(ValueError, match="circular_nsf got transforms=0"):
        flows.circular_nsf(3, transforms=0)


class OnCircles(torch.nn.Module):
    """Von Mises's distribution, whose support torch calls the real line."""

    def forward(self, context=None):
        return torch.distributions.Independent(
            torch.distributions.VonMises(torch.zeros(2), torch.ones(2)), 1
        )


def test_base_off_the_torus_is_refused():
    with pytest.raises(ValueError, match=r"DiagonalNormal base .*Real.* transform of .*Interval"):
        flows.circular_nsf(2, base=DiagonalNormal(2))
    with pytest.raises(ValueError, match=r"UniformBox base .*6\.2832"):
        flows.circular_nsf(2, base=UniformBox(2, 0.0, 2 * math.pi))
    flows.circular_nsf(2, base=UniformBox(2, -math.pi, math.pi).bfloat16())
    flows.circular_nsf(2, base=OnCircles())
    Flow(UniformBox(2), [SigmoidTransform().inv, T.LULinear(2)])
