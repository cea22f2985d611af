"""Potential fields: the formula, its derivatives by autograd, the residual, the trace."""

from __future__ import annotations

import pytest
import torch
from case import perturb
from torch import Tensor, nn

from pyro_nf.nn import PotentialField
from pyro_nf.nn._residual_trace import _by_gram, _by_jacobian

torch.set_num_threads(1)

T = torch.tensor(0.3, dtype=torch.float64)


def points(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perturbed(field: PotentialField) -> PotentialField:
    perturb(field.double(), 1.0)
    return field


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("sizes", [(3, 5), (1, 4), (7, 2)], ids=str)
@pytest.mark.parametrize("context_dim", [0, 2])
def test_derivatives_are_autograds(layers: int, sizes: tuple, context_dim: int) -> None:
    field = perturbed(PotentialField(*sizes, layers=layers, context_dim=context_dim))
    z, context = points(5, sizes[0]), points(5, 2, seed=1) if context_dim else None
    t, z = T.clone().requires_grad_(), z.requires_grad_()
    potential = field.potential(t, z, context)
    assert potential.shape == (5,)
    (gradient,) = torch.autograd.grad(potential.sum(), z, create_graph=True)
    close = {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(field(t, z, context), gradient, **close)

    by_time = torch.stack(
        [
            torch.autograd.grad(potential[i], t, retain_graph=True, materialize_grads=True)[0]
            for i in range(5)
        ]
    )
    columns, values, _ = field.columns(z, context)
    residual = (by_time + gradient.square().sum(1) / 2).abs()
    torch.testing.assert_close(field.side_rate("hjb", values, t, columns), residual, **close)

    # Twice by autograd, through σ and its second derivative.
    trace = sum(
        torch.autograd.grad(gradient[:, d].sum(), z, retain_graph=True)[0][:, d]
        for d in range(sizes[0])
    )
    torch.testing.assert_close(field.with_divergence(values, t, columns)[1], trace, **close)


def test_the_potential_is_the_formula() -> None:
    field = perturbed(PotentialField(2, 4, layers=3, rank=2, context_dim=2))
    z, c = points(6, 2), points(6, 2, seed=1)
    s = torch.cat([z, T.expand(6, 1)], 1)
    opening = field.opening
    u = (2 * (s @ opening.weight.t() + opening.bias + c @ opening.context_weight.t()).cosh()).log()
    for layer in field.residual:
        u = u + (2 * (u @ layer.weight.t() + layer.bias).cosh()).log() / 2
    matrix = field.factor.t() @ field.curvature.diag() @ field.factor
    want = (
        u @ field.output
        + (s @ matrix * s).sum(1) / 2
        + (s * (field.slope + c @ field.context_slope.t())).sum(1)
    )
    torch.testing.assert_close(field.potential(T, z, c), want)


def test_smooth_where_every_unit_is_zero() -> None:
    """At z = 0, t = 0 without biases; a σ of |x| would have a kink for autograd there."""
    field = perturbed(PotentialField(2, 5, layers=2))
    for layer in (field.opening, *field.residual):
        nn.init.zeros_(layer.bias)
    zero, z = torch.zeros_like(T), torch.zeros(1, 2, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda v: field.potential(zero, v).sum(), z)
    columns, values, _ = field.columns(z, None)
    _, products = field.with_products(values, zero, columns, torch.eye(2).double().unsqueeze(2))
    torch.testing.assert_close(products.squeeze(2), hessian[0, :, 0])


@pytest.mark.parametrize("scale", [1e2, 1e6])
def test_far_potentials_are_finite(scale: float) -> None:
    field = perturbed(PotentialField(2, 5, layers=3)).float()
    columns, values, _ = field.columns((scale * points(8, 2)).float().requires_grad_(), None)
    velocity, divergence = field.with_divergence(values, T.float(), columns)
    (velocity.sum() + divergence.sum()).backward()
    assert velocity.isfinite().all()
    assert divergence.isfinite().all()
    assert all(p.grad.isfinite().all() for p in field.parameters())


def test_straight_paths_have_no_residual() -> None:
    """Φ = vᵀz - ½‖v‖²t moves everything at the velocity v, and solves the equation."""
    field = PotentialField(2).double()
    field.slope.data = torch.tensor([3.0, -1.0, -5.0]).double()
    columns, values, _ = field.columns(points(6, 2), None)
    rate = field.side_rate("hjb", values, T, columns)
    torch.testing.assert_close(rate, torch.zeros_like(rate))
    field.slope.data[2] = 0
    _, values, _ = field.columns(points(6, 2), None)
    torch.testing.assert_close(field.side_rate("hjb", values, T, columns), rate + 5)


@pytest.mark.parametrize("shape", [(6, 2), (2, 6), (1, 3), (3, 1)])
@pytest.mark.parametrize("residual", [1, 2, 4])
def test_both_recursions_of_the_trace_agree(shape: tuple[int, int], residual: int) -> None:
    opening = points(*shape)
    weights = points(residual, shape[0], shape[0], seed=1)
    slopes = points(residual + 1, shape[0], 5, seed=2)
    either = _by_jacobian(opening, weights, slopes, 0.4), _by_gram(opening, weights, slopes, 0.4)
    for norm, other in zip(*either, strict=True):
        torch.testing.assert_close(norm, other)


def test_quadratics_may_be_indefinite() -> None:
    field = perturbed(PotentialField(3))
    field.output.data.zero_()
    _, values, _ = field.columns(points(1, 3), None)
    _, hessian = field.with_products(values, T, points(3, 1), torch.eye(3).double().unsqueeze(2))
    eigenvalues = torch.linalg.eigvalsh(hessian.squeeze(2))
    assert eigenvalues[0] < 0 < eigenvalues[-1]
