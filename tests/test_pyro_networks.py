"""Layers under Pyro's names over a user's own networks: Pyro's own, and any callable."""

from __future__ import annotations

import functools

import pyro.distributions.transforms as P
import pytest
import torch
from cases_pyro import GivenDense
from pyro.nn import (
    AutoRegressiveNN,
    ConditionalAutoRegressiveNN,
    ConditionalDenseNN,
    DenseNN,
)
from pyro_layers import log_det, perturb
from torch import Tensor, nn

from pyro_nf import transforms as T  # noqa: N812

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def agree(ours: object, theirs: object, x: Tensor, atol: float) -> None:
    y, want = ours(x), theirs(x)
    torch.testing.assert_close(y, want, rtol=0, atol=atol)
    ladj, theirs_ladj = ours.log_abs_det_jacobian(x, y), theirs.log_abs_det_jacobian(x, want)
    if theirs_ladj.ndim > ladj.ndim:
        theirs_ladj = theirs_ladj.sum(-1)
    torch.testing.assert_close(ladj, theirs_ladj.expand(ladj.shape), rtol=0, atol=20 * atol)
    torch.testing.assert_close(ours.inv(y.clone()), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("order", ["linear", "quadratic"])
def test_splines_over_a_given_network_are_pyros(order: str) -> None:
    sizes = [8, 8, 7] if order == "quadratic" else [8, 8, 7, 8]
    x, c, atol = torch.randn(30, 4), torch.randn(30, 3), 5e-4  # Pyro's slope at the box is 0.999
    arn = AutoRegressiveNN(4, [20], param_dims=sizes)
    agree(
        T.SplineAutoregressive(4, arn, order=order),
        P.SplineAutoregressive(4, arn, order=order),
        x,
        atol,
    )
    arn = ConditionalAutoRegressiveNN(4, 3, [20], param_dims=sizes)
    pair = [space.ConditionalSplineAutoregressive(4, arn, order=order) for space in (T, P)]
    agree(*(t.condition(c) for t in pair), x, atol)
    dense = DenseNN(3, [20], param_dims=[4 * p for p in sizes])
    pair = [space.ConditionalSpline(dense, 4, 8, order=order) for space in (T, P)]
    agree(*(t.condition(c) for t in pair), x, atol)
    dense = DenseNN(1, [20], param_dims=[3 * p for p in sizes])
    pair = [space.SplineCoupling(4, 1, dense, order=order, identity=True) for space in (T, P)]
    agree(*pair, x, atol)


def test_other_layers_over_a_given_network_are_pyros() -> None:
    x, c = torch.randn(30, 4), torch.randn(30, 3)
    arn = AutoRegressiveNN(4, [20])
    agree(*(space.AffineAutoregressive(arn, stable=True) for space in (T, P)), x, 1e-12)
    dense = DenseNN(3, [20], param_dims=[4, 4])
    pair = [space.ConditionalHouseholder(4, dense, 2) for space in (T, P)]
    agree(*(t.condition(c) for t in pair), x, 1e-12)
    dense = DenseNN(3, [20], param_dims=[16])
    pair = [space.ConditionalMatrixExponential(4, dense, iterations=30) for space in (T, P)]
    agree(*(t.condition(c) for t in pair), x, 1e-12)


def test_affine_layers_over_a_given_network_differ_by_the_soft_clip_alone() -> None:
    x, c = torch.randn(30, 4), torch.randn(30, 3)
    wide = {"log_scale_min_clip": -1e13, "log_scale_max_clip": 1e13}
    arn = ConditionalAutoRegressiveNN(4, 3, [20])
    pair = [space.ConditionalAffineAutoregressive(arn, **wide) for space in (T, P)]
    agree(*(t.condition(c) for t in pair), x, 1e-10)
    dense = ConditionalDenseNN(2, 3, [20], param_dims=[2, 2])
    pair = [space.ConditionalAffineCoupling(2, dense, **wide) for space in (T, P)]
    agree(*(t.condition(c) for t in pair), x, 1e-10)
    dense = DenseNN(2, [20], param_dims=[4, 4])
    pair = [space.AffineCoupling(1, dense, dim=-2, **wide) for space in (T, P)]
    agree(*pair, torch.randn(30, 3, 2), 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0])
def test_spectral_normalization_is_twice_differentiable_at_ties(
    scale: float, dtype: torch.dtype
) -> None:
    layer = T.MatrixExponential(3, normalization="spectral").to(dtype)
    x, weight = torch.randn(5, 3).to(dtype), scale * torch.eye(3, dtype=dtype)

    def total(weight: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (x,)).square().sum()

    hessian = torch.autograd.functional.hessian(total, weight)
    assert hessian.isfinite().all()
    assert hessian.abs().max() > 0


def test_spectral_normalization_takes_a_matrix_for_each_context() -> None:
    layer = T.ConditionalMatrixExponential(3, GivenDense(2, [9]), normalization="spectral")
    perturb(layer)
    x, c = torch.randn(5, 3), torch.randn(5, 2)
    y, ladj = layer.forward_and_ladj(x, c)
    for i in range(5):
        one, one_ladj = layer.forward_and_ladj(x[i], c[i])
        torch.testing.assert_close(y[i], one)
        torch.testing.assert_close(ladj[i], one_ladj)


@pytest.mark.parametrize("activation", ["ELU", "LeakyReLU", "sigmoid", "tanh"])
def test_neural_units_of_every_activation_invert(activation: str) -> None:
    arn = AutoRegressiveNN(3, [20], param_dims=[8, 8, 8])
    for layer in (
        T.NeuralAutoregressive(arn, 8, activation),
        T.neural_autoregressive(3, activation=activation, width=8),
    ):
        perturb(layer, 0.3)
        x = 3 * torch.randn(20, 3)
        torch.testing.assert_close(layer.inv(layer(x).clone()), x, rtol=1e-7, atol=1e-7)


def test_a_given_network_is_called_once_for_each_dimension_to_invert() -> None:
    arn = AutoRegressiveNN(5, [20])
    calls: list[int] = []
    arn.register_forward_hook(lambda *_: calls.append(1))
    layer = T.AffineAutoregressive(arn)
    y = layer(torch.randn(3, 5))
    assert len(calls) == 1
    layer.inv(y.clone())
    assert len(calls) == 1 + 5


def test_a_loaded_order_counts() -> None:
    layer = T.AffineAutoregressive(AutoRegressiveNN(5, [20], permutation=torch.arange(5)))
    other = T.AffineAutoregressive(AutoRegressiveNN(5, [20], permutation=torch.arange(5).flip(0)))
    other.load_state_dict(layer.state_dict())
    y = torch.randn(4, 5)
    torch.testing.assert_close(other.inv(y), layer.inv(y))


def test_pyros_checkpoints_fit() -> None:
    theirs = P.AffineAutoregressive(AutoRegressiveNN(4, [10]))
    ours = T.AffineAutoregressive(AutoRegressiveNN(4, [10]))
    ours.load_state_dict(theirs.state_dict())
    coupling = P.AffineCoupling(2, DenseNN(2, [10], param_dims=[2, 2]))
    T.AffineCoupling(2, DenseNN(2, [10], param_dims=[2, 2])).load_state_dict(coupling.state_dict())


def test_a_given_function_is_used_and_never_reused() -> None:
    arn = ConditionalAutoRegressiveNN(3, 2, [10])
    fixed = functools.partial(arn, context=torch.zeros(2))
    fixed.permutation = arn.permutation
    layer = T.AffineAutoregressive(fixed)
    assert not layer.reusable
    assert list(layer.parameters()) == []
    x = torch.randn(5, 3)
    torch.testing.assert_close(layer.inv(layer(x)), x)
    weights = nn.Parameter(torch.zeros(2, 7))
    planar = T.ConditionalPlanar(
        lambda c: (c @ weights).split([1, 3, 3], -1), input_dim=3, context_dim=2
    )
    assert not planar.reusable
    y = planar.condition(torch.ones(5, 2))(x)
    assert y.shape == (5, 3)


def test_images_over_a_given_network() -> None:
    layer = T.ConditionalGeneralizedChannelPermute(GivenDense(2, [9]), 3, torch.tensor([2, 0, 1]))
    perturb(layer)
    x, c = torch.randn(5, 3, 4, 2), torch.randn(5, 2)
    y, ladj = layer.forward_and_ladj(x, c)
    assert y.shape == x.shape
    torch.testing.assert_close(layer.inverse_and_ladj(y, c)[0], x)
    want = log_det(lambda v: layer.forward_and_ladj(v, c[0])[0], x[0])
    torch.testing.assert_close(ladj[0], want)
    first = T.GeneralizedChannelPermute(3, torch.tensor([2, 0, 1]))
    assert torch.equal(first(x), x[:, [2, 0, 1]])
