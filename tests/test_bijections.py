"""Every scalar bijection: against autograd, over shapes, dtypes and transforms, and its errors."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from bijection_cases import ALL, DIRECTIONS, each_bijection, each_direction, random_inputs
from torch.autograd import grad, gradcheck, gradgradcheck

from pyro_nf import bijections as B


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
@each_direction
@each_bijection
def test_log_derivative_is_autograds(bijection, direction, scale):
    x, params = random_inputs(bijection, (400,), scale)
    x.requires_grad_()
    y, ladj = getattr(bijection, direction)(x, params)
    (slope,) = grad(y.sum(), x)
    torch.testing.assert_close(ladj, slope.log(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
@each_bijection
def test_inverse_undoes_forward(bijection, scale):
    x, params = random_inputs(bijection, (2000,), scale)
    y, ladj = bijection.forward(x, params)
    x2, inverse_ladj = bijection.inverse(y, params)
    torch.testing.assert_close(x2, x, rtol=0, atol=1e-8)
    # Where the curve is flat, a y rounded to float64 fixes x, and so ladj, to fewer digits.
    torch.testing.assert_close(inverse_ladj, -ladj, rtol=0, atol=1e-6)


@each_bijection
def test_shapes_and_strides(bijection):
    for shape in [(), (0,), (3, 0), (4,), (2, 3, 4)]:
        x, params = random_inputs(bijection, shape)
        y, ladj = bijection.forward(x, params)
        assert y.shape == ladj.shape == shape
        torch.testing.assert_close(bijection.inverse(y, params)[0], x)
    x, params = random_inputs(bijection, (3, 4))
    strided = params.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    torch.testing.assert_close(
        bijection.forward(x.t().contiguous().t(), strided), bijection.forward(x, params)
    )
    shared = params[:, :1, :1].expand(-1, 3, 4).detach().requires_grad_()
    y, ladj = bijection.forward(x, shared)
    torch.testing.assert_close((y, ladj), bijection.forward(x, shared.detach().contiguous()))
    (y.sum() + ladj.sum()).backward()
    assert shared.grad.isfinite().all()


@each_direction
@each_bijection
def test_first_and_second_derivatives(bijection, direction):
    x, params = random_inputs(bijection, (3,), 0.7, spread=1.5)
    inputs = (x.requires_grad_(), params.requires_grad_())
    function = getattr(bijection, direction)
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs, fast_mode=True)


def test_gated_affine_is_pyros_stable_form():
    x, params = random_inputs(B.GatedAffine(), (50,))
    sigma = torch.sigmoid(params[1] + 2)
    y, ladj = B.GatedAffine().forward(x, params)
    torch.testing.assert_close(y, sigma * x + (1 - sigma) * params[0])
    torch.testing.assert_close(ladj, sigma.log())


@pytest.mark.parametrize("raw", [-200.0, -20.0, 200.0])
@pytest.mark.parametrize("bijection", [B.Affine(), B.GatedAffine()], ids=["affine", "gated"])
def test_affine_at_extreme_parameters(bijection, raw):
    x = torch.linspace(-3, 3, 7)
    params = torch.full((2, 7), raw, requires_grad=True)
    for direction in DIRECTIONS:
        y, ladj = getattr(bijection, direction)(x, params)
        (g,) = grad(y.sum() + ladj.sum(), params)
        assert all(t.isfinite().all() for t in (y, ladj, g))


def test_affine_scale_is_bounded_with_a_gradient_everywhere():
    params = torch.tensor([[0.0] * 3, [-50.0, 0.0, 50.0]], requires_grad=True)
    _, ladj = B.Affine(max_log_scale=3.0).forward(torch.ones(3), params)
    assert (ladj.abs() < 3).all()
    assert (grad(ladj.sum(), params)[0][1] > 0).all()


@each_direction
@each_bijection
def test_dtypes_follow_the_input(bijection, direction):
    x, params = random_inputs(bijection, (50,), spread=1.0)
    expected = getattr(bijection, direction)(x, params)
    for dtype, tolerance in [(torch.float32, 1e-3), (torch.bfloat16, 0.2)]:
        results = getattr(bijection, direction)(x.to(dtype), params.to(dtype).requires_grad_())
        for result, value in zip(results, expected, strict=True):
            assert result.dtype == dtype
            torch.testing.assert_close(result.double(), value, rtol=tolerance, atol=tolerance)


@each_direction
@each_bijection
def test_runs_on_meta(bijection, direction):
    x = torch.empty(3, 4, device="meta", requires_grad=True)
    params = torch.empty(bijection.param_count, 3, 4, device="meta", requires_grad=True)
    y, ladj = getattr(bijection, direction)(x, params)
    (y.sum() + ladj.sum()).backward()
    assert y.is_meta
    assert ladj.is_meta
    assert params.grad.shape == params.shape


@each_direction
@each_bijection
def test_maps(bijection, direction):
    x, params = random_inputs(bijection, (5, 4))
    function = getattr(bijection, direction)
    expected = function(x, params)
    mapped = torch.vmap(function, in_dims=(0, 1))(x, params)
    torch.testing.assert_close(mapped, expected)
    rows = torch.vmap(lambda row: function(row, params[:, 0]))(x)
    torch.testing.assert_close(rows, function(x, params[:, :1].expand(-1, 5, 4)))

    def total(x, params):
        return sum(part.sum() for part in function(x, params))

    inputs = (x.requires_grad_(), params.requires_grad_())
    for_each = torch.vmap(torch.func.grad(total, (0, 1)), in_dims=(0, 1), out_dims=(0, 1))
    torch.testing.assert_close(for_each(*inputs), grad(total(*inputs), inputs))


@each_direction
@pytest.mark.parametrize("name", ["quadratic", "linear"])
def test_compiles_without_a_break(name, direction):
    torch._dynamo.reset()
    bijection = ALL[name]
    x, params = random_inputs(bijection, (3, 4))
    inputs = (x.requires_grad_(), params.requires_grad_())
    function = getattr(bijection, direction)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    results, expected = compiled(*inputs), function(*inputs)
    torch.testing.assert_close(results, expected)
    gradients = [grad(y.sum() + 2 * ladj.sum(), inputs) for y, ladj in (results, expected)]
    torch.testing.assert_close(*gradients)


@each_bijection
def test_is_a_value(bijection):
    assert pickle.loads(pickle.dumps(bijection)) == bijection
    assert hash(bijection) == hash(pickle.loads(pickle.dumps(bijection)))
    assert bijection.sign == 1
    assert type(bijection).__name__ in repr(bijection)


@each_bijection
def test_wrong_parameter_shapes_are_refused(bijection):
    wrong = torch.zeros(bijection.param_count + 1, 4)
    for direction in DIRECTIONS:
        with pytest.raises(ValueError, match=rf"\({bijection.param_count + 1}, 4\).*Pass params"):
            getattr(bijection, direction)(torch.zeros(4), wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 0}, "bins=0"),
        ({"bins": 1}, "bins=1"),
        ({"bound": -1.0}, "bound=-1.0"),
        ({"bound": math.inf}, "bound=inf"),
        ({"boundary_slopes": "free"}, "'fixed', 'learned'"),
        ({"bins": 100, "min_bin": 0.01}, "min_bin below"),
        ({"min_slope": 1.0}, "min_slope below 1"),
    ],
)
@pytest.mark.parametrize("family", [B.RationalQuadraticSpline, B.LinearRationalSpline])
def test_bad_options_are_refused(family, options, message):
    with pytest.raises(ValueError, match=message) as error:
        family(**options)
    assert family.__name__ in str(error.value)


def test_other_bad_options_are_refused():
    with pytest.raises(TypeError, match="bins=8.0"):
        B.RationalQuadraticSpline(bins=8.0)
    with pytest.raises(ValueError, match="min_lambda=0.5"):
        B.LinearRationalSpline(min_lambda=0.5)
    with pytest.raises(ValueError, match="max_log_scale=0"):
        B.Affine(max_log_scale=0)
    with pytest.raises(ValueError, match="bias=nan"):
        B.GatedAffine(bias=math.nan)
    with pytest.raises(TypeError, match="bias='2'"):
        B.GatedAffine(bias="2")
