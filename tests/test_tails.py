"""Tail maps: their formulas, float32 far out, the tails they make, and chains of bijections."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch.autograd import grad, gradcheck, gradgradcheck

from pyro_nf import bijections as B
from pyro_nf.bijections import _normal_tail as normal_tail
from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.infer import fit_density
from pyro_nf.transforms import Elementwise

torch.set_num_threads(1)

TAILS = {
    "sinh-arcsinh": B.SinhArcsinh(),
    "soft-log": B.SoftLog(threshold=1.5),
    "tail transform": B.TailTransform(),
    "chain": B.Chain([B.TailTransform(), B.Affine(), B.SinhArcsinh()]),
}
each = pytest.mark.parametrize("bijection", TAILS.values(), ids=TAILS)
each_direction = pytest.mark.parametrize("direction", ["forward", "inverse"])


def inputs(bijection, rows, *, spread=2.0, scale=1.0):
    generator = torch.Generator().manual_seed(rows)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return spread * draw(rows), scale * draw(bijection.param_count, rows)


@each
@each_direction
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_log_derivative_is_autograds(bijection, direction, scale):
    x, params = inputs(bijection, 300, scale=scale)
    x.requires_grad_()
    y, ladj = getattr(bijection, direction)(x, params)
    (slope,) = grad(y.sum(), x)
    torch.testing.assert_close(ladj, slope.log(), rtol=1e-9, atol=1e-9)


@each
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_inverse_undoes_forward(bijection, scale):
    x, params = inputs(bijection, 1000, scale=scale)
    y, ladj = bijection.forward(x, params)
    back, back_ladj = bijection.inverse(y, params)
    torch.testing.assert_close(back, x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(back_ladj, -ladj, rtol=0, atol=1e-7)


@each
@each_direction
def test_first_and_second_derivatives(bijection, direction):
    x, params = inputs(bijection, 4, scale=0.5)
    values = (x.requires_grad_(), params.requires_grad_())
    assert gradcheck(getattr(bijection, direction), values)
    assert gradgradcheck(getattr(bijection, direction), values, fast_mode=True)


@each
@each_direction
def test_slope_at_zero(bijection, direction):
    """A sign of 0 must not kill the derivative there."""
    zero = torch.zeros(1, requires_grad=True)
    y, ladj = getattr(bijection, direction)(zero, torch.zeros(bijection.param_count, 1))
    torch.testing.assert_close(grad(y.sum(), zero)[0], ladj.exp())


@each
@each_direction
def test_float32_far_out(bijection, direction):
    """float32 agrees with float64 at ±100 and far beyond."""
    size = [100.0, 1e4, 1e6]
    if bijection == TAILS["soft-log"] and direction == "inverse":
        size = [10.0, 50.0, 80.0]  # it is exponential
    if bijection in (TAILS["tail transform"], TAILS["chain"]) and direction == "forward":
        size = [5.0, 10.0]  # standard deviations: the map is exp(λ x² / 2)
    value = torch.tensor([*size, *(-s for s in size)])
    params = 0.3 * torch.randn(
        bijection.param_count, len(value), generator=torch.Generator().manual_seed(1)
    )
    results = getattr(bijection, direction)(value, params)
    exact = getattr(bijection, direction)(value.double(), params.double())
    for got, want in zip(results, exact, strict=True):
        assert got.isfinite().all()
        torch.testing.assert_close(got.double(), want, rtol=3e-4, atol=1e-5)


def test_sinh_arcsinh_is_the_formula():
    x, params = inputs(B.SinhArcsinh(), 50, scale=0.3)
    y = B.SinhArcsinh().forward(x, params)[0]
    scale, skew = (p / (1 + p.abs() / m) for p, m in zip(params[1:3], (5, 2), strict=True))
    tail = (params[3] / (1 + params[3].abs() / math.log(3))).exp()
    want = params[0] + scale.exp() * (tail * (x.asinh() + skew)).sinh()
    torch.testing.assert_close(y, want)


def test_soft_log_is_the_formula():
    x = torch.tensor([0.0, -3.0, 5.0, -20.0], dtype=torch.float64)
    y, ladj = B.SoftLog(threshold=4.0).forward(x, torch.zeros(1, 4, dtype=torch.float64))
    torch.testing.assert_close(
        y, torch.tensor([0, -3, 4 + math.log(2), -4 - math.log(17)]).double()
    )
    torch.testing.assert_close(ladj, torch.tensor([0, 0, -math.log(2), -math.log(17)]).double())


def test_tail_transform_is_the_papers_formula():
    bijection = B.TailTransform(tail=0.3)
    x, params = inputs(bijection, 60)
    params[0], params[1] = 0.4, 0.0
    y = bijection.forward(x, params)[0]
    raw = torch.where(x > 0, params[2], params[3])
    tail = 0.3 * (raw / (1 + raw.abs() / 3)).exp()
    want = 0.4 + x.sign() / tail * (torch.special.erfc(x.abs() / 2**0.5) ** -tail - 1)
    torch.testing.assert_close(y, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("z", [1e-6, 0.1, 1.0, 5.0, 40.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_log_tail_and_its_quantile(z, dtype):
    z = torch.tensor(z, dtype=dtype)
    with mpmath.workdps(40):
        want = float(-mpmath.log(mpmath.erfc(mpmath.mpf(float(z)) / mpmath.sqrt(2))))
    eps = torch.finfo(dtype).eps
    level = normal_tail.log_tail(z)
    assert abs(level.item() - want) <= 4 * eps * (1 + want)
    back = normal_tail.tail_quantile(torch.tensor(want, dtype=dtype))
    assert abs(back.item() - z.item()) <= 4 * eps * (1 + z.item())


def test_the_tail_transform_takes_any_finite_data():
    y = torch.tensor([-1e38, -1e20, 0.0, 1e20, 1e38], requires_grad=True)
    x, ladj = B.TailTransform().inverse(y, torch.zeros(4, 5))
    assert x.isfinite().all()
    assert (x.diff() > 0).all()
    (slope,) = grad((x + ladj).sum(), y)
    assert slope.isfinite().all()


def test_the_tail_transform_makes_power_tails():
    """From a normal, P(Y > u) = ½ (1 + λ u)^(-1/λ): a generalised Pareto tail on each side."""
    u = torch.tensor([0.5, 10.0, 1e4], dtype=torch.float64)
    params = torch.zeros(4, 3, dtype=torch.float64)
    x = B.TailTransform(tail=0.5).inverse(u, params)[0]
    survival = 0.5 * torch.special.erfc(x / 2**0.5)
    torch.testing.assert_close(survival, 0.5 * (1 + 0.5 * u) ** -2.0)


@pytest.mark.parametrize("name", ["sinh-arcsinh", "tail transform"])
def test_integrates_to_one(name):
    bijection = TAILS[name]
    params = torch.tensor([0.3, -0.2, 0.4, -0.3], dtype=torch.float64)
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    # A grid of y that is even in no scale: the images of an even one.
    y = bijection.forward(x, params[:, None].expand(-1, len(x)))[0]
    back, ladj = bijection.inverse(y, params[:, None].expand(-1, len(x)))
    density = (-0.5 * back.square() - 0.5 * math.log(2 * math.pi) + ladj).exp()
    assert abs(torch.trapezoid(density, y).item() - 1) < 1e-4


def test_training_finds_the_weight_of_each_tail():
    """Generalised Pareto tails of weight 0.5 to the right and 0.05 to the left."""
    z = torch.randn(20000, 1, generator=torch.Generator().manual_seed(0))
    zeros = torch.zeros(4, *z.shape)
    sides = [B.TailTransform(tail=weight).forward(z, zeros)[0] for weight in (0.5, 0.05)]
    x = torch.where(z > 0, *sides)
    flow = Flow(DiagonalNormal(1), Elementwise(B.TailTransform(), 1))
    fit_density(flow, x, max_steps=300, learning_rate=0.1, progress=False)
    raw = flow.transform.constants.detach()[2:, 0]
    right, left = (0.1 * (raw / (1 + raw.abs() / 3)).exp()).tolist()
    assert abs(right - 0.5) < 0.05
    assert abs(left - 0.05) < 0.03


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"max_tailweight=1.0. Pass a number above 1"):
        B.SinhArcsinh(max_tailweight=1.0)
    with pytest.raises(ValueError, match="threshold=0"):
        B.SoftLog(threshold=0)
    with pytest.raises(ValueError, match="tail=-0.1"):
        B.TailTransform(tail=-0.1)
    with pytest.raises(TypeError, match="tail='heavy'"):
        B.TailTransform(tail="heavy")
    with pytest.raises(ValueError, match="no parts"):
        B.Chain([])
    with pytest.raises(TypeError, match="part of type type"):
        B.Chain([B.Affine])
    with pytest.raises(ValueError, match="Chain got parts on"):
        B.Chain([B.Affine(), B.CircularSpline()])


def test_a_chain_applies_its_parts_in_order():
    chain = B.Chain([B.Affine(), B.SoftLog(threshold=2.0)])
    x, params = inputs(chain, 20)
    y, first = B.Affine().forward(x, params[:2])
    y, second = B.SoftLog(threshold=2.0).forward(y, params[2:])
    torch.testing.assert_close(chain.forward(x, params), (y, first + second))
    assert chain.sign == 1
    assert hash(chain) == hash(B.Chain((B.Affine(), B.SoftLog(threshold=2.0))))


def test_a_chain_has_the_domain_of_its_parts():
    assert B.Chain([B.CircularSpline()] * 2).domain is B.CircularSpline.domain


def test_a_chain_takes_its_known_inverse():
    """Value and gradients without a search."""
    chain = B.Chain([B.UnconstrainedMonotonic(units=2), B.Affine(), B.UnconstrainedMonotonic()])
    x, params = inputs(chain, 12, scale=0.5)
    y = chain.forward(x, params)[0]
    results = []
    for invert in (chain.inverse, lambda y, params: chain.inverse_at(x, y, params)):
        leaves = (y.clone().requires_grad_(), params.clone().requires_grad_())
        back, ladj = invert(*leaves)
        results.append((back, ladj, *grad((back.sin() + ladj).sum(), leaves)))
    torch.testing.assert_close(*results)
