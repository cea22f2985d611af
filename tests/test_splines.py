"""Monotone splines: the papers' formulas, the closed-form gradient, tails, knots, precision."""

from __future__ import annotations

import math

import pytest
import torch
from bijection_cases import (
    DIRECTIONS,
    SPLINES,
    each_direction,
    each_quadratic,
    each_spline,
    random_inputs,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import grad

from pyro_nf import bijections as B


def _scalar_quadratic(spline, x, raw):
    """Durkan et al. (2019), section 3.1, in Python floats."""
    k, bound = spline.bins, spline.bound

    def cumulative(rows):
        top = max(rows)
        total = sum(math.exp(r - top) for r in rows)
        sizes = [
            2 * bound * (spline.min_bin + (1 - k * spline.min_bin) * math.exp(r - top) / total)
            for r in rows
        ]
        return [-bound + sum(sizes[:i]) for i in range(k + 1)]

    xs, ys = cumulative(raw[:k]), cumulative(raw[k : 2 * k])
    offset = math.log(math.exp(1 - spline.min_slope) - 1)
    d = [spline.min_slope + math.log1p(math.exp(r + offset)) for r in raw[2 * k :]]
    d = d if spline.boundary_slopes == "learned" else [1.0, *d, 1.0]
    if not xs[0] <= x <= xs[-1]:
        return x, 0.0
    i = max(j for j in range(k) if xs[j] <= x)
    w, h = xs[i + 1] - xs[i], ys[i + 1] - ys[i]
    s, z = h / w, (x - xs[i]) / w
    den = s + (d[i + 1] + d[i] - 2 * s) * z * (1 - z)
    y = ys[i] + h * (s * z**2 + d[i] * z * (1 - z)) / den
    top = s**2 * (d[i + 1] * z**2 + 2 * s * z * (1 - z) + d[i] * (1 - z) ** 2)
    return y, math.log(top) - 2 * math.log(den)


@each_quadratic
def test_quadratic_against_the_paper(spline):
    x, params = random_inputs(spline, (60,), 2.0)
    y, ladj = spline.forward(x, params)
    rows = zip(x.tolist(), params.t().tolist(), strict=True)
    oracle = [_scalar_quadratic(spline, v, p) for v, p in rows]
    expected = torch.tensor(oracle, dtype=torch.float64)
    torch.testing.assert_close(torch.stack([y, ladj], -1), expected, rtol=0, atol=1e-10)


def test_linear_against_the_paper():
    """Dolatabadi et al. (2020), algorithm 1 and eq. (6), on one bin between two others."""
    spline = B.LinearRationalSpline(bins=3)
    x, params = torch.linspace(-1.6, 1.6, 50).double(), torch.zeros(11, 50).double()
    raw_slopes, raw_cut = torch.tensor([0.7, -1.1]).double(), torch.tensor(0.4).double()
    params[6:8], params[9] = raw_slopes[:, None], raw_cut
    da, db = 1e-3 + torch.log1p(torch.exp(raw_slopes + math.log(math.exp(1 - 1e-3) - 1)))
    lam = 0.025 + 0.95 * torch.sigmoid(raw_cut)
    ya, yb, wa, wb = -5 / 3, 5 / 3, 1.0, torch.sqrt(da / db)
    wc = lam * wa * da + (1 - lam) * wb * db  # the secant is 1
    yc = ((1 - lam) * wa * ya + lam * wb * yb) / ((1 - lam) * wa + lam * wb)
    t = (x - ya) / (yb - ya)
    left = (wa * ya * (lam - t) + wc * yc * t) / (wa * (lam - t) + wc * t)
    right = (wc * yc * (1 - t) + wb * yb * (t - lam)) / (wc * (1 - t) + wb * (t - lam))
    y, _ = spline.forward(x, params)
    torch.testing.assert_close(y, torch.where(t <= lam, left, right), rtol=0, atol=1e-12)


@each_spline
def test_zero_parameters_are_the_identity(spline):
    x = torch.linspace(-6, 6, 101).double()
    params = torch.zeros(spline.param_count, 101).double()
    for direction in DIRECTIONS:
        y, ladj = getattr(spline, direction)(x, params)
        torch.testing.assert_close(y, x, rtol=0, atol=1e-14)
        torch.testing.assert_close(ladj, torch.zeros_like(x), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@each_direction
@each_spline
def test_tails_are_the_identity_exactly(spline, direction, dtype):
    far = torch.tensor([5.5, 7.3, 1e3, 1e6, math.inf], dtype=dtype)
    x = torch.cat([-far, far])
    params = torch.randn(spline.param_count, 10).to(dtype)
    y, ladj = getattr(spline, direction)(x, params)
    assert torch.equal(y, x)
    assert (ladj == 0).all()


@each_spline
def test_meets_the_tails(spline):
    bound = float(spline.bound)
    x = torch.tensor([-bound, bound]).double()
    params = torch.randn(spline.param_count, 2).double()
    y, ladj = spline.forward(x, params)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-12)
    if spline.boundary_slopes == "fixed":
        torch.testing.assert_close(ladj, torch.zeros(2).double(), rtol=0, atol=1e-9)
    else:
        assert (ladj.abs() > 1e-3).all()


@pytest.mark.parametrize("family", [B.RationalQuadraticSpline, B.LinearRationalSpline])
def test_many_bins(family):
    spline = family(bins=150)
    x, params = random_inputs(spline, (100,), spread=2.0)
    y, _ = spline.forward(x, params)
    torch.testing.assert_close(spline.inverse(y, params)[0], x, rtol=0, atol=1e-9)


@given(
    raw=st.lists(st.floats(-8, 8, width=32), min_size=33, max_size=33),
    points=st.lists(st.floats(-6, 6, width=32), min_size=2, max_size=8),
    name=st.sampled_from(sorted(SPLINES)),
)
@settings(deadline=None, max_examples=60)
def test_monotone_and_invertible(raw, points, name):
    spline = SPLINES[name]
    x = torch.tensor(sorted(points), dtype=torch.float64)
    params = torch.tensor(raw[: spline.param_count], dtype=torch.float64)[:, None].expand(
        -1, len(x)
    )
    y, ladj = spline.forward(x, params)
    assert (y.diff() >= -1e-12).all()
    x2, inverse_ladj = spline.inverse(y, params)
    assert ladj.isfinite().all()
    assert inverse_ladj.isfinite().all()
    assert ((x2 - x).abs() * ladj.exp().clamp(max=1)).max() < 1e-10


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
@each_direction
@each_quadratic
def test_closed_form_gradient_is_the_plain_one(spline, direction, scale):
    x, params = random_inputs(spline, (300,), scale)
    inputs = (x.requires_grad_(), params.requires_grad_())
    upstream = [torch.randn(300, dtype=torch.float64) for _ in range(2)]
    closed = getattr(spline, direction)(*inputs)
    plain = spline.evaluate(*inputs, direction)
    assert type(closed[0].grad_fn) is not type(plain[0].grad_fn)
    torch.testing.assert_close(closed, plain, rtol=0, atol=0)
    for picked in ([0, 1], [0], [1]):
        gradients = [
            grad(
                [out[i] for i in picked], inputs, [upstream[i] for i in picked], retain_graph=True
            )
            for out in (closed, plain)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


@each_quadratic
def test_gradient_of_the_values_alone(spline):
    x, params = random_inputs(spline, (40,))
    both = grad(spline.inverse(x.requires_grad_(), params.requires_grad_())[0].sum(), x)
    alone = grad(spline.inverse(x, params.detach())[0].sum(), x)
    torch.testing.assert_close(alone, both, rtol=0, atol=0)


@each_quadratic
def test_higher_derivatives_of_every_kind(spline):
    x, params = random_inputs(spline, (), 0.7, spread=1.5)

    def energy(params):
        y, ladj = spline.forward(x, params)
        return y.square() + ladj

    expected = torch.autograd.functional.hessian(energy, params)
    torch.testing.assert_close(torch.func.hessian(energy)(params), expected)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(energy))(params), expected)


@each_direction
@each_spline
def test_gradients_at_knots_and_bounds(spline, direction):
    bound = float(spline.bound)
    edges = torch.linspace(-bound, bound, spline.bins + 1)  # the knots of zero parameters
    x = torch.cat([edges, torch.tensor([-1e6, 1e6, 0.0])]).requires_grad_()
    params = torch.zeros(spline.param_count, len(x), requires_grad=True)
    y, ladj = getattr(spline, direction)(x, params)
    gradients = grad(y.sum() + ladj.sum(), (x, params), create_graph=True)
    second = grad(sum(g.sum() for g in gradients), (x, params))
    assert all(g.isfinite().all() for g in (*gradients, *second))


@pytest.mark.parametrize("scale", [1.0, 5.0, 15.0])
@pytest.mark.parametrize("bins", [8, 16])
@pytest.mark.parametrize("family", [B.RationalQuadraticSpline, B.LinearRationalSpline])
def test_float32_at_large_parameters(family, bins, scale):
    """Nothing overflows, and a round trip loses no more than the rounding of its middle.

    At such parameters slopes reach 1e-7, where neighbouring floats of y lie 1 apart in x: the
    error is measured along y there.
    """
    spline = family(bins=bins)
    x = torch.rand(20_000) * 10 - 5
    params = torch.randn(spline.param_count, 20_000) * scale
    y, ladj = spline.forward(x, params)
    x2, _ = spline.inverse(y, params)
    assert ladj.isfinite().all()
    assert ((x2 - x).abs() * ladj.exp().clamp(max=1)).max() < 1e-3
    x3, inverse_ladj = spline.inverse(x, params)
    y3, _ = spline.forward(x3, params)
    assert inverse_ladj.isfinite().all()
    assert ((y3 - x).abs() * inverse_ladj.exp().clamp(max=1)).max() < 1e-3
    if family is B.RationalQuadraticSpline:  # slopes are at most 2 max(secant) = 2000
        assert (y3 - x).abs().max() < 1e-3


@pytest.mark.parametrize("scale", [1.0, 15.0])
@each_direction
@each_spline
def test_float32_gradients_are_finite(spline, direction, scale):
    x, params = random_inputs(spline, (5000,), scale, torch.float32)
    inputs = (x.requires_grad_(), params.requires_grad_())
    y, ladj = getattr(spline, direction)(*inputs)
    assert all(g.isfinite().all() for g in grad(y.sum() + ladj.sum(), inputs))


@each_direction
@each_quadratic
def test_autocast_leaves_the_knots_alone(spline, direction):
    x, params = random_inputs(spline, (50,), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = getattr(spline, direction)(x, params)
    torch.testing.assert_close(results, getattr(spline, direction)(x, params), rtol=0, atol=0)
