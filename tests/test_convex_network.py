"""The input-convex network: its gradient, its Hessian, its context."""

from __future__ import annotations

import pytest
import torch
from case import perturb
from torch import Tensor

from pyro_nf.nn import ConvexMLP
from pyro_nf.transforms import ConvexPotential

HIDDEN = pytest.mark.parametrize("hidden_dims", [(7,), (7, 5), (4, 6, 5)], ids=str)


def network(
    input_dim: int = 3,
    hidden_dims: tuple[int, ...] = (7, 5),
    scale: float = 1.0,
    **options: object,
) -> ConvexMLP:
    made = ConvexMLP(input_dim, hidden_dims, **options).double()
    perturb(made, scale)
    return made


def points(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@HIDDEN
@pytest.mark.parametrize("context_dim", [0, 2])
def test_gradient_and_hessian_are_autograds(hidden_dims: tuple, context_dim: int) -> None:
    made = network(3, hidden_dims, context_dim=context_dim)
    x, context = points(3, 4), points(4, 2, seed=1) if context_dim else None
    gradient, hessian = made.gradient(x, context), made.hessian(x, context)
    for i in range(4):
        c = None if context is None else context[i]
        value = lambda v, c=c: made(v, c)  # noqa: E731
        torch.testing.assert_close(
            gradient[:, i], torch.autograd.functional.jacobian(value, x[:, i])
        )
        torch.testing.assert_close(
            hessian[i], torch.autograd.functional.hessian(value, x[:, i]), rtol=1e-9, atol=1e-9
        )


@HIDDEN
def test_the_formula(hidden_dims: tuple) -> None:
    made, x = network(3, hidden_dims, sharpness=2.0), points(3, 5)
    softplus, h = lambda v: (1 + v.exp()).log(), None
    for layer in made.layers:
        a = 2 * (layer.weight @ x + layer.bias[:, None])
        if h is None:
            h = (2 * torch.cosh(a / 2)).log()
        else:
            h = softplus(a + softplus(4 * layer.mixer) @ h / layer.mixer.shape[1])
    strength = 1e-3 + softplus(made.strength)
    want = strength / 2 * x.square().sum(0) + made.tilt @ x + softplus(4 * made.output) @ h / 2
    torch.testing.assert_close(made(x), want)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_strongly_convex_at_any_parameters(scale: float) -> None:
    made = network(4, (9, 8), scale, context_dim=2)
    x, other, context = points(4, 200), points(4, 200, seed=1), points(200, 2, seed=2)
    jacobian = made.hessian(x, context)
    torch.testing.assert_close(jacobian, jacobian.mT)  # curl-free
    assert torch.linalg.eigvalsh(jacobian).min() > 0.999e-3
    rise = ((made.gradient(x, context) - made.gradient(other, context)) * (x - other)).sum(0)
    assert (rise >= 0.999e-3 * (x - other).square().sum(0)).all()


def test_contexts_are_evaluated_once_and_broadcast_aligned_right() -> None:
    made = network(3, context_dim=2)
    x = points(3, 4, 5)
    for batch in [(), (1,), (5,), (4, 1), (4, 5)]:
        context = points(*batch, 2, seed=1)
        want = made.gradient(x, context.expand(4, 5, 2).clone())
        torch.testing.assert_close(made.gradient(x, context), want)


def test_a_fresh_map_is_near_the_identity() -> None:
    for size in (1, 2, 10, 50):
        torch.manual_seed(0)
        layer = ConvexPotential(size, fast="sample")
        x = torch.randn(500, size)
        y, ladj = layer.forward_and_ladj(x)
        assert (y - x).square().mean().sqrt() < 0.5
        assert ladj.abs().mean() < 0.5 * size**0.5
