"""Linear, quadratic and cubic splines: their formulas, knots, tails and precision."""

from __future__ import annotations

import math

import pytest
import torch
from bijection_cases import DIRECTIONS, each_direction, random_inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import grad

from pyro_nf import bijections as B
from pyro_nf.bijections._cubic_root import position, rise_and_slope

SPLINES = {
    "linear": B.LinearSpline(bins=7, bound=4.0),
    "linear-steep": B.LinearSpline(bins=3, bound=2, min_slope=0.2),
    "quadratic": B.QuadraticSpline(bins=7, bound=4.0),
    "quadratic-two-bins": B.QuadraticSpline(bins=2, bound=2, min_bin=0.1, min_slope=0.1),
    "cubic": B.CubicSpline(bins=7, bound=4.0),
    "cubic-two-bins": B.CubicSpline(bins=2, bound=2, min_bin=0.1, min_slope=0.1),
}
SMOOTH = [name for name in SPLINES if not name.startswith("linear")]

each_spline = pytest.mark.parametrize("spline", SPLINES.values(), ids=SPLINES)
each_smooth = pytest.mark.parametrize("spline", [SPLINES[s] for s in SMOOTH], ids=SMOOTH)


def _sizes(raw, least):
    total = sum(math.exp(r) for r in raw)
    return [least + (1 - len(raw) * least) * math.exp(r) / total for r in raw]


def _knots(sizes):
    return [sum(sizes[:i]) for i in range(len(sizes) + 1)]


def _linear(spline, x, raw):
    heights = _sizes(raw, spline.min_slope / spline.bins)
    k = min(int(x * spline.bins), spline.bins - 1)
    slope = heights[k] * spline.bins
    return sum(heights[:k]) + slope * (x - k / spline.bins), slope


def _quadratic(spline, x, raw):
    """Müller et al. (2019), appendix A: the slope runs straight between the knots."""
    k = spline.bins
    widths, bare = _sizes(raw[:k], spline.min_bin), [math.exp(r) for r in raw[k:]]
    area = sum(w * (a + b) / 2 for w, a, b in zip(widths, bare, bare[1:], strict=False))
    v = [spline.min_slope + (1 - spline.min_slope) * b / area for b in bare]
    knots = _knots(widths)
    i = max(j for j in range(k) if knots[j] <= x)
    y = sum(w * (a + b) / 2 for w, a, b in zip(widths[:i], v, v[1:], strict=False))
    z = (x - knots[i]) / widths[i]
    return y + widths[i] * (v[i] * z + (v[i + 1] - v[i]) * z**2 / 2), v[i] + (v[i + 1] - v[i]) * z


def _cubic(spline, x, raw):
    """Steffen (1990), eq. 2-5 and 11, with the ends of Durkan et al. (2019)."""
    k = spline.bins
    w, h = _sizes(raw[:k], spline.min_bin), _sizes(raw[k : 2 * k], spline.min_bin)
    s = [b / a for a, b in zip(w, h, strict=True)]
    ends = [
        spline.min_slope + 2 * (1 - spline.min_slope) / (1 + math.exp(-r)) for r in raw[2 * k :]
    ]
    d = [ends[0] * s[0]]
    for i in range(1, k):
        p = (s[i - 1] * w[i] + s[i] * w[i - 1]) / (w[i - 1] + w[i])
        d.append(2 * min(s[i - 1], s[i], p / 2))
    d.append(ends[1] * s[-1])
    xs, ys = _knots(w), _knots(h)
    i = max(j for j in range(k) if xs[j] <= x)
    a = (d[i] + d[i + 1] - 2 * s[i]) / w[i] ** 2
    b = (3 * s[i] - 2 * d[i] - d[i + 1]) / w[i]
    t = x - xs[i]
    return a * t**3 + b * t**2 + d[i] * t + ys[i], 3 * a * t**2 + 2 * b * t + d[i]


@pytest.mark.parametrize("scale", [1.0, 3.0])
@each_spline
def test_against_the_papers(spline, scale):
    oracle = {"Lin": _linear, "Qua": _quadratic, "Cub": _cubic}[type(spline).__name__[:3]]
    x, params = random_inputs(spline, (60,), scale)
    x = (torch.rand(60, dtype=torch.float64) * 2 - 1) * spline.bound
    y, ladj = spline.forward(x, params)
    for i in range(60):
        unit = x[i].item() / (2 * spline.bound) + 0.5
        value, slope = oracle(spline, unit, params[:, i].tolist())
        assert y[i].item() == pytest.approx((value - 0.5) * 2 * spline.bound, abs=1e-10)
        assert ladj[i].item() == pytest.approx(math.log(slope), abs=1e-8)


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


@each_direction
@each_spline
def test_meets_the_corners_of_the_box(spline, direction):
    x = torch.tensor([-1.0, 1.0]).double() * spline.bound
    params = torch.randn(spline.param_count, 2).double()
    y, _ = getattr(spline, direction)(x, params)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-12)


@each_direction
@each_spline
def test_nan_stays_nan(spline, direction):
    x = torch.tensor([torch.nan, 0.0])
    y, _ = getattr(spline, direction)(x, torch.randn(spline.param_count, 2))
    assert y.isnan().tolist() == [True, False]


@each_smooth
def test_the_slope_is_continuous_inside_the_box(spline):
    params = torch.randn(spline.param_count, 1).double().expand(-1, 100_001)
    x = torch.linspace(-0.999, 0.999, 100_001).double() * spline.bound
    _, ladj = spline.forward(x, params)
    # As steep as a bin's slope may change, and nothing like a jump.
    assert ladj.exp().diff().abs().max() < 0.02


@given(
    raw=st.lists(st.floats(-8, 8, width=32), min_size=16, max_size=16),
    points=st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=8),
    name=st.sampled_from(sorted(SPLINES)),
)
@settings(deadline=None, max_examples=60)
def test_monotone_and_invertible(raw, points, name):
    spline = SPLINES[name]
    x = torch.tensor(sorted(points), dtype=torch.float64)
    params = torch.tensor(raw[: spline.param_count], dtype=torch.float64)[:, None]
    params = params.expand(-1, len(x))
    y, ladj = spline.forward(x, params)
    assert (y.diff() >= -1e-12).all()
    x2, inverse_ladj = spline.inverse(y, params)
    assert ladj.isfinite().all()
    assert inverse_ladj.isfinite().all()
    assert ((x2 - x).abs() * ladj.exp().clamp(max=1)).max() < 1e-10


@pytest.mark.parametrize("scale", [1.0, 5.0, 15.0])
@each_spline
def test_float32_at_large_parameters(spline, scale):
    """A round trip loses no more than the rounding of its middle, which flat places magnify."""
    x = (torch.rand(5000) * 2 - 1) * spline.bound
    params = torch.randn(spline.param_count, 5000) * scale
    for there, back in (DIRECTIONS, DIRECTIONS[::-1]):
        y, ladj = getattr(spline, there)(x, params)
        x2, _ = getattr(spline, back)(y, params)
        assert ladj.isfinite().all()
        assert ((x2 - x).abs() * ladj.exp().clamp(max=1)).max() < 1e-5


@each_direction
@each_spline
def test_gradients_are_finite_everywhere(spline, direction):
    """At the knots, the ends, beyond, and at parameters that leave bins empty."""
    edges = torch.linspace(-spline.bound, spline.bound, spline.bins + 1)
    x = torch.cat([edges, torch.tensor([-1e6, 1e6, 0.1])]).requires_grad_()
    for scale in (0.0, 15.0):
        params = (scale * torch.randn(spline.param_count, len(x))).requires_grad_()
        y, ladj = getattr(spline, direction)(x, params)
        gradients = grad(y.sum() + ladj.sum(), (x, params), create_graph=True)
        assert all(g.isfinite().all() for g in gradients)
        if scale == 0:
            second = grad(sum(g.square().sum() for g in gradients), (x, params))
            assert all(g.isfinite().all() for g in second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cubic_roots_reach_the_precision_for_all_slopes(dtype):
    slopes = torch.logspace(-6, math.log10(2), 40, dtype=dtype)
    near = torch.logspace(-7, -0.31, 60, dtype=dtype)
    alpha, beta, z = torch.meshgrid(slopes, slopes, torch.cat([near, 1 - near]), indexing="ij")
    rise, slope = rise_and_slope(z, alpha, beta)
    found = position(rise, alpha, beta)
    eps = torch.finfo(dtype).eps
    assert (rise_and_slope(found, alpha, beta)[0] - rise).abs().max() <= 4 * eps
    assert ((found - z).abs() * slope).max() <= 8 * eps


@pytest.mark.parametrize("family", [B.LinearSpline, B.QuadraticSpline, B.CubicSpline])
def test_bad_options_are_refused(family):
    bad = [({"bins": 0}, "bins=0"), ({"bins": 1}, "bins=1"), ({"bound": -1.0}, "bound=-1.0")]
    bad += [({"min_slope": 1.0}, "min_slope below 1")]
    if family is not B.LinearSpline:
        bad += [({"bins": 100, "min_bin": 0.01}, "min_bin below")]
    for options, message in bad:
        with pytest.raises(ValueError, match=message) as error:
            family(**options)
        assert family.__name__ in str(error.value)


@each_direction
@each_spline
def test_float32_is_sound_on_the_ends_of_the_box_and_beyond(spline, direction):
    """The ends are exact, whatever the knots' sum rounds to; outside no log-derivative is lost."""
    params = torch.randn(spline.param_count, 4000)
    end = torch.full((1000,), float(spline.bound))
    x = torch.cat([-end, end, 7 * end.sign(), 20 * torch.randn(1000)])
    y, ladj = getattr(spline, direction)(x, params)
    exact = getattr(spline, direction)(x.double(), params.double())
    torch.testing.assert_close(y.double(), exact[0], rtol=1e-4, atol=1e-4)
    at_end = x.abs() == spline.bound
    torch.testing.assert_close(ladj[at_end].double(), exact[1][at_end], rtol=0, atol=1e-5)
    assert ladj.isfinite().all()
