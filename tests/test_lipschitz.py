"""Lipschitz networks: the bound, closed-form Jacobians, spectral norms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pyro_nf.nn import LipschitzMLP
from pyro_nf.nn._contractive import CONSTANTS, make_contractive
from pyro_nf.nn._spectral import SpectralLimit, top_singular_value

torch.set_num_threads(1)


def perturbed(scale: float = 3.0, **options: object) -> LipschitzMLP:
    torch.manual_seed(0)
    network = LipschitzMLP(3, 4, hidden_dims=(7, 6), lipschitz=0.9, **options).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=scale)
    return network


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_bound_the_slopes(name: str) -> None:
    z = torch.linspace(-30, 30, 600_001, dtype=torch.float64)
    for raw_beta in (None, -1.0, 3.0):
        activation = make_contractive(name).double()
        for parameter in activation.parameters() if raw_beta else ():
            nn.init.constant_(parameter, raw_beta)
        slope = activation.read()(z)[1]
        steepest = (slope.square() + (slope - 1).square()).sqrt() if "concat" in name else slope
        assert 0.9999 * CONSTANTS[name] <= steepest.max() <= CONSTANTS[name]


@pytest.mark.parametrize("name", CONSTANTS)
def test_slopes_are_the_derivatives(name: str) -> None:
    z = torch.linspace(-5, 5, 101, dtype=torch.float64, requires_grad=True)
    value, slope = make_contractive(name).double().read()(z)
    torch.testing.assert_close(slope, torch.autograd.grad(value.sum(), z)[0])


@pytest.mark.parametrize("name", CONSTANTS)
@pytest.mark.parametrize("norm", ["svd", "power"])
def test_the_map_is_lipschitz_at_any_weights(name: str, norm: str) -> None:
    network = perturbed(activation=name, norm=norm)
    network.refine()
    assert network.lipschitz_bound() <= 0.9 + 1e-12
    a, b = 5 * torch.randn(2, 3, 4000, dtype=torch.float64)
    near = a + 1e-3 * b
    for other in (b, near):
        ratio = (network(a) - network(other)).norm(dim=0) / (a - other).norm(dim=0)
        assert ratio.max() <= 0.9


@pytest.mark.parametrize(("norm", "updates"), [("svd", 1000), ("power", 200)])
def test_the_bound_holds_through_random_updates(norm: str, updates: int) -> None:
    torch.manual_seed(1)
    network = LipschitzMLP(5, 5, hidden_dims=(16,), lipschitz=0.95, norm=norm).double()
    largest = torch.zeros(())
    for _ in range(updates):
        for parameter in network.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        network.refine()
        largest = torch.maximum(largest, network.lipschitz_bound())
    assert 0.8 < largest <= 0.95 + 1e-12


@pytest.mark.parametrize("name", CONSTANTS)
@pytest.mark.parametrize("hidden_dims", [(), (6,), (7, 6)], ids=str)
def test_closed_form_jacobian_is_autograds(name: str, hidden_dims: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    network = LipschitzMLP(
        3, 4, hidden_dims=hidden_dims, context_dim=2, activation=name, zero_init=False
    ).double()
    x, context = torch.randn(3, 5).double(), torch.randn(5, 2).double()
    value, jacobian = network.read(context, x.shape[1:]).with_jacobian(x)
    torch.testing.assert_close(value, network(x, context))
    for i in range(5):
        want = torch.autograd.functional.jacobian(lambda v, i=i: network(v, context[i]), x[:, i])
        torch.testing.assert_close(jacobian[..., i], want)


def test_fresh_network_returns_zero_and_keeps_shapes() -> None:
    network = LipschitzMLP(3, 2, hidden_dims=(8,), context_dim=2)
    out = network(torch.randn(3, 4, 5), torch.randn(5, 2))
    assert torch.equal(out, torch.zeros(2, 4, 5))
    network = perturbed(0.5, context_dim=2)
    x, context = torch.randn(3, 4, 5).double(), torch.randn(5, 2).double()
    torch.testing.assert_close(network(x, context)[:, 1, 2], network(x[:, 1, 2], context[2]))
    assert network.bfloat16()(x.bfloat16(), context.bfloat16()).dtype == torch.bfloat16


def test_training_can_leave_the_limit() -> None:
    """Where the limit binds, the gradient turns the matrix; inside, it is the plain one."""
    limit = SpectralLimit((3, 4), 0.5, "svd").double()
    weight = torch.randn(3, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(limit, weight)
    assert torch.equal(limit(0.01 * weight), 0.01 * weight)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 4), (4, 1), (4, 4)], ids=str)
def test_top_singular_value_and_its_derivatives(shape: tuple[int, int]) -> None:
    torch.manual_seed(3)
    weight = torch.randn(shape).double().requires_grad_()
    torch.testing.assert_close(
        top_singular_value(weight), torch.linalg.matrix_norm(weight, 2), rtol=1e-13, atol=0
    )
    assert torch.autograd.gradcheck(top_singular_value, weight)
    assert torch.autograd.gradgradcheck(top_singular_value, weight)


@pytest.mark.parametrize("size", [1e-38, 1e-20, 1e20, 1e37])
def test_norms_of_any_size(size: float) -> None:
    weight = (size * torch.randn(3, 4)).requires_grad_()
    want = torch.linalg.matrix_norm(weight.double(), 2).float()
    torch.testing.assert_close(top_singular_value(weight), want, rtol=1e-5, atol=0)
    limited = SpectralLimit((3, 4), 0.9, "svd")(weight)
    assert torch.autograd.grad(limited.sum(), weight)[0].isfinite().all()


@pytest.mark.parametrize("weight", [torch.zeros(3, 4), torch.eye(4)], ids=["zero", "identity"])
def test_equal_singular_values_have_finite_derivatives(weight: Tensor) -> None:
    limit = SpectralLimit((4, 4), 0.9, "svd")
    loss = lambda w: (limit(w) + 1).square().sum()  # noqa: E731
    weight = weight.requires_grad_()
    assert torch.autograd.grad(loss(weight), weight)[0].isfinite().all()
    assert torch.autograd.functional.hessian(loss, weight).isfinite().all()


def test_power_iteration_is_for_large_layers_and_follows_the_weights() -> None:
    assert LipschitzMLP(2, 2, hidden_dims=(8,)).steady
    network = LipschitzMLP(600, 2, hidden_dims=(600,), zero_init=False)
    assert [linear.limit.norm for linear in network.linears] == ["power", "exact"]
    assert not network.steady
    before = network.linears[0].limit.vector.clone()
    network(torch.randn(600, 3))
    assert torch.equal(network.linears[0].limit.vector, before)  # evaluation moves nothing
    network.refine()
    assert not torch.equal(network.linears[0].limit.vector, before)


def test_power_iteration_has_the_norms_gradient() -> None:
    torch.manual_seed(4)
    weight = (torch.randn(5, 3) @ torch.diag(torch.tensor([3.0, 1.0, 0.5]))).double()
    grads = []
    for norm in ("svd", "power"):
        limit = SpectralLimit((5, 3), 0.5, norm).double()
        leaf = weight.clone().requires_grad_()
        (limit(leaf).sin().sum() * (1.05 if norm == "power" else 1)).backward()
        grads.append(leaf.grad)
    assert torch.nn.functional.cosine_similarity(*map(torch.flatten, grads), dim=0) > 0.99


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="activation"):
        LipschitzMLP(2, 2, activation="relu")
    with pytest.raises(ValueError, match="norm"):
        LipschitzMLP(2, 2, norm="frobenius")
    with pytest.raises(ValueError, match="lipschitz"):
        LipschitzMLP(2, 2, lipschitz=0.0)
    with pytest.raises(ValueError, match="no context"):
        LipschitzMLP(2, 2, context_dim=1)(torch.zeros(2, 3))
