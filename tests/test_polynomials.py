"""Sum-of-squares and Bernstein polynomials: formulas, tails, precision, training, their flows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from bijection_cases import random_inputs
from torch.autograd import grad

from pyro_nf import bijections as B
from pyro_nf import flows, infer

SOS = {
    "default": B.SumOfSquares(),
    "one": B.SumOfSquares(degree=1, count=1, min_slope=0.1),
    "many": B.SumOfSquares(degree=4, count=5),
}
BERNSTEIN = {
    "default": B.Bernstein(),
    "cubic": B.Bernstein(degree=3, bound=2, min_slope=0.1),
    "low": B.Bernstein(degree=8, bound=3.0),
}
each_sos = pytest.mark.parametrize("polynomial", SOS.values(), ids=SOS)
each_bernstein = pytest.mark.parametrize("polynomial", BERNSTEIN.values(), ids=BERNSTEIN)
each = pytest.mark.parametrize(
    "polynomial",
    [*SOS.values(), *BERNSTEIN.values()],
    ids=[*(f"sos-{name}" for name in SOS), *(f"bernstein-{name}" for name in BERNSTEIN)],
)


def _expanded(polynomial, raw):
    """The sum-of-squares polynomial and its derivative, multiplied out by numpy."""
    count = polynomial.count
    centres = np.linspace(-1, 1, count) if count > 1 else np.zeros(1)
    slope = np.polynomial.Polynomial([polynomial.min_slope])
    for k in range(count):
        p = np.polynomial.Polynomial([math.sqrt((1 - polynomial.min_slope) / count)])
        for r in range(polynomial.degree + 1):
            shifted = np.polynomial.Polynomial([-centres[k], 1]) / polynomial.scale
            p = p + raw[1 + r * count + k] * shifted**r
        slope = slope + p**2
    return slope.integ() + raw[0], slope


@each_sos
def test_sum_of_squares_is_the_integral(polynomial):
    x, params = random_inputs(polynomial, (40,))
    y, ladj = polynomial.forward(x, params)
    for i in range(40):
        value, slope = _expanded(polynomial, params[:, i].tolist())
        assert y[i].item() == pytest.approx(value(x[i].item()), rel=1e-8, abs=1e-8)
        assert ladj[i].exp().item() == pytest.approx(slope(x[i].item()), rel=1e-8)


@each_bernstein
def test_bernstein_is_the_weighted_sum(polynomial):
    x, params = random_inputs(polynomial, (40,))
    y, _ = polynomial.forward(x, params)
    degree, bound = polynomial.degree, polynomial.bound
    t = x.clamp(-bound, bound) / (2 * bound) + 0.5
    offset = math.log(math.expm1(1 - polynomial.min_slope))
    slopes = torch.nn.functional.softplus(params[1:] + offset) + polynomial.min_slope
    slopes = slopes[[0, *range(degree - 2), degree - 3]]  # the end slopes stand twice
    rises = torch.cat([torch.zeros(1, 40).double(), slopes.cumsum(0)]) * 2 * bound / degree
    theta = params[0] + rises - rises[-1] / 2
    basis = torch.stack(
        [math.comb(degree, j) * t**j * (1 - t) ** (degree - j) for j in range(degree + 1)]
    )
    want = (theta * basis).sum(0)
    want = want + torch.where(x > bound, slopes[-1], slopes[0]) * (x - x.clamp(-bound, bound))
    torch.testing.assert_close(y, want, rtol=0, atol=1e-11)


@each
def test_zero_parameters_are_the_identity(polynomial):
    x = torch.linspace(-9, 9, 101).double()
    params = torch.zeros(polynomial.param_count, 101).double()
    for direction in ("forward", "inverse"):
        y, ladj = getattr(polynomial, direction)(x, params)
        torch.testing.assert_close(y, x, rtol=0, atol=1e-12)
        torch.testing.assert_close(ladj, torch.zeros_like(x), rtol=0, atol=1e-12)


@each
def test_slopes_stay_above_the_least_one(polynomial):
    x, params = random_inputs(polynomial, (2000,), 20.0, spread=10.0)
    _, ladj = polynomial.forward(x, params)
    assert ladj.min() >= math.log(polynomial.min_slope) - 1e-9


@each
def test_covers_the_real_line(polynomial):
    y = torch.tensor([-1e6, -50.0, 0.0, 50.0, 1e6]).double()
    params = torch.randn(polynomial.param_count, 5).double()
    x, ladj = polynomial.inverse(y, params)
    back, forward_ladj = polynomial.forward(x, params)
    torch.testing.assert_close(back, y, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(ladj, -forward_ladj)


@each_bernstein
def test_bernstein_has_two_continuous_derivatives_where_the_tails_begin(polynomial):
    params = torch.randn(polynomial.param_count, 1).double()
    for end in (-polynomial.bound, polynomial.bound):
        beside = torch.tensor([end - 1e-9, end + 1e-9]).double().requires_grad_()
        y, ladj = polynomial.forward(beside, params.expand(-1, 2))
        (curvature,) = grad(ladj.sum(), beside)
        for pair in (y, ladj, curvature):
            assert abs(pair[0] - pair[1]) < 1e-6


@each
def test_float32_far_out(polynomial):
    x = torch.linspace(-100, 100, 2000)
    params = torch.randn(polynomial.param_count, 2000)
    y, ladj = polynomial.forward(x, params)
    y64, ladj64 = polynomial.forward(x.double(), params.double())
    # Where it cancels against the shift, y is as exact as the shift.
    assert ((y - y64).abs() / (1 + y64.abs())).max() < 1e-4
    assert ((ladj - ladj64).abs() / (1 + ladj64.abs())).max() < 1e-4
    x2, inverse_ladj = polynomial.inverse(y, params)
    assert inverse_ladj.isfinite().all()
    assert ((x2 - x).abs() * ladj.exp().clamp(max=1) / (1 + x.abs())).max() < 1e-4


@pytest.mark.parametrize("polynomial", [SOS["default"], SOS["many"]], ids=["two", "many"])
def test_the_squares_do_not_stay_equal_in_training(polynomial):
    """From zero parameters one step must part them, and none may be stuck at zero."""
    x = torch.linspace(-2, 2, 50).double()
    params = torch.zeros(polynomial.param_count, 1).double().requires_grad_()
    optimiser = torch.optim.SGD([params], 1e-2)
    for _ in range(3):
        y, ladj = polynomial.forward(x, params.expand(-1, 50))
        optimiser.zero_grad()
        ((y - x.sinh()).square() - ladj).mean().backward()
        optimiser.step()
    # The coefficients of powers of u, not of u - μ.
    raw = params.detach().squeeze(1).tolist()
    centres, count = np.linspace(-1, 1, polynomial.count), polynomial.count
    found = []
    for k in range(count):
        p = np.polynomial.Polynomial([math.sqrt((1 - polynomial.min_slope) / count)])
        for r in range(polynomial.degree + 1):
            shifted = np.polynomial.Polynomial([-centres[k], 1]) / polynomial.scale
            p = p + raw[1 + r * count + k] * shifted**r
        found.append(p.coef)
    directions = np.stack([coef / np.linalg.norm(coef) for coef in found])
    assert np.linalg.svd(directions)[1][1] > 1e-3  # not all the same polynomial


@pytest.mark.parametrize("name", ["sos", "bernstein"])
def test_flows_fit_a_skewed_bimodal_density(name):
    """Data of another location and scale, which no affine flow fits."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3000, 2, generator=generator)
    side = torch.where(torch.rand(3000, generator=generator) < 0.5, -1.0, 1.0)
    x = 50 + 3 * torch.stack([2 * side + 0.5 * z[:, 0], z[:, 1] + z[:, 0].square()], -1)
    train, new = x.split([2500, 500])
    flow = getattr(flows, name)(2, transforms=2)
    infer.fit_density(flow, train, max_steps=150, progress=False)
    normal = torch.distributions.MultivariateNormal(train.mean(0), train.T.cov())
    with torch.no_grad():
        assert flow().log_prob(new).mean() > normal.log_prob(new).mean() + 0.4
        draws = flow().sample((200,))
    assert (draws.mean(0) - train.mean(0)).abs().max() < 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: B.SumOfSquares(degree=0), "degree=0"),
        (lambda: B.SumOfSquares(count=0), "count=0"),
        (lambda: B.SumOfSquares(min_slope=1.0), "min_slope below 1"),
        (lambda: B.Bernstein(degree=2), "degree=3 or more"),
        (lambda: B.Bernstein(bound=0.0), "bound=0.0"),
        (lambda: B.Bernstein(min_slope=2.0), "min_slope below 1"),
        (lambda: flows.sos(2, transforms=0), "sos got transforms=0"),
        (lambda: flows.bernstein(0), "bernstein got input_dim=0"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
