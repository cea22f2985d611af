"""The block autoregressive layer: onto the line, exact far out, triangular, invertible."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyro_nf.bijections import ConvergenceError, Root
from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.nn import BlockMLP
from pyro_nf.transforms import BlockAutoregressive
from pyro_nf.transforms._block import sweep, walk

torch.set_num_threads(1)

ACTIVATIONS = ("ELU", "LeakyReLU", "sigmoid", "tanh")
RESIDUALS = (None, "normal", "gated")


def perturbed(layer: BlockAutoregressive, scale: float = 0.5) -> BlockAutoregressive:
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = scale * noise
    return layer.double()


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_pyros_options_score_and_invert(activation: str, residual: str | None) -> None:
    layer = perturbed(BlockAutoregressive(3, [2, 3], activation, residual))
    x = draw(5, 3)
    y, ladj = layer(x), layer.forward_and_ladj(x)[1]
    jacobian = torch.func.vmap(torch.func.jacrev(layer))(x)
    torch.testing.assert_close(ladj, torch.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-9)
    assert (jacobian.diagonal(dim1=1, dim2=2) > 0).all()
    assert (jacobian.triu(1) == 0).all()
    torch.testing.assert_close(layer.inv(y), x, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("activation", "residual"),
    [*((a, "gated") for a in ACTIVATIONS), ("tanh", "normal")],
)
def test_the_density_integrates_to_one(activation: str, residual: str | None) -> None:
    layer = perturbed(
        BlockAutoregressive(2, [4, 4], activation, residual, fast="log_prob", order=[1, 0]), 0.7
    )
    flow = Flow(DiagonalNormal(2).double(), layer)
    base = torch.linspace(-7, 7, 29, dtype=torch.float64)
    with torch.no_grad():
        data = layer.forward_and_ladj(torch.cartesian_prod(base, base))[0]
        reach = data.abs().amax(0).asinh()
        steps = torch.linspace(-1, 1, 700, dtype=torch.float64)[:, None] * reach  # y = sinh(step)
        y = torch.cartesian_prod(*steps.sinh().unbind(1))
        weight = torch.cartesian_prod(*steps.cosh().unbind(1)).prod(1)
        area = (2 * reach / 699).prod()
        total = (flow().log_prob(y).exp() * weight).sum() * area
    assert abs(total.item() - 1) < 1e-3


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_float32_is_exact_at_large_inputs(activation: str, residual: str | None) -> None:
    layer = perturbed(BlockAutoregressive(3, [8, 8], activation, residual)).float()
    x = torch.linspace(-100, 100, 303).view(3, 101).T
    with torch.no_grad():
        y, ladj = layer.forward_and_ladj(x)
        exact_y, exact_ladj = layer.double().forward_and_ladj(x.double())
    torch.testing.assert_close(y.double(), exact_y, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(ladj.double(), exact_ladj, rtol=1e-5, atol=1e-4)


def test_the_order_decides_what_is_read() -> None:
    layer = perturbed(BlockAutoregressive(4, [3], order=[2, 0, 3, 1]))
    jacobian = torch.func.jacrev(layer)(draw(4))[[2, 0, 3, 1]][:, [2, 0, 3, 1]]
    assert (jacobian.triu(1) == 0).all()
    assert (jacobian.tril() != 0).sum() == 10


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("hidden_factors", [(), (5,), (3, 5)])
def test_the_implicit_gradient_is_that_of_the_recorded_walk(
    hidden_factors: tuple[int, ...], residual: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = perturbed(BlockAutoregressive(4, hidden_factors, residual=residual, context_dim=2))
    context = draw(6, 2).requires_grad_()
    y = layer.forward_and_ladj(draw(3, 6, 4), context)[0].detach().requires_grad_()
    leaves = [y, context, *layer.parameters()]

    def gradients() -> tuple[Tensor, ...]:
        x, ladj = layer.inverse_and_ladj(y, context)
        return torch.autograd.grad(x.sin().sum() + ladj.cos().sum(), leaves)

    found = gradients()
    monkeypatch.setattr(sweep, "is_traced", lambda: True)
    for got, want in zip(found, gradients(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-9)


def test_searches_evaluate_little(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = perturbed(BlockAutoregressive(8))
    y = layer(draw(512, 8)).detach()
    columns = []
    original = walk._value_and_log_slope

    def counted(own: object, u: Tensor, shifts: object) -> tuple[Tensor, Tensor]:
        columns.append(u.shape[1])
        return original(own, u, shifts)

    monkeypatch.setattr(walk, "_value_and_log_slope", counted)
    with torch.no_grad():
        layer.inverse_and_ladj(y)
    assert len(columns) <= 8 * 16
    assert sum(columns) <= 8 * 8 * 512


def test_values_outside_of_a_bounded_range_are_refused() -> None:
    layer = BlockAutoregressive(2, residual=None)
    with pytest.raises(ConvergenceError, match="BlockAutoregressive has a bounded range.*gated"):
        layer.inv(torch.full((3, 2), 1e3))
    wide = BlockAutoregressive(2, root=Root(iterations=1))
    with pytest.raises(ConvergenceError, match="within 1 evaluations"):
        wide.inv(torch.full((3, 2), 1e3))


def test_not_finite_rows_stay_alone() -> None:
    layer = perturbed(BlockAutoregressive(2))
    y = draw(3, 2)
    y[1, 0] = torch.nan
    x, ladj = layer.inverse_and_ladj(y)
    assert x[1].isnan().all()
    assert ladj[1].isnan()
    torch.testing.assert_close(layer(x)[[0, 2]], y[[0, 2]])


def test_a_fresh_layer_is_near_the_identity() -> None:
    for size in (1, 2, 20):
        x = draw(1000, size)
        y, ladj = BlockAutoregressive(size).double().forward_and_ladj(x)
        assert (y - x).abs().mean() < 0.35
        assert (ladj / size).abs().mean() < 0.5


def test_columns_are_evaluated_alike_in_parts() -> None:
    network = BlockMLP(64, context_dim=2)
    u, context = torch.randn(64, 1500), torch.randn(1500, 2)
    v, log_slope = network(u, context)
    with torch.no_grad():
        parts = network(u, context)
    torch.testing.assert_close(parts[0], v, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts[1], log_slope, rtol=1e-5, atol=1e-5)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="activation='relu'"):
        BlockAutoregressive(2, activation="relu")
    with pytest.raises(ValueError, match="residual='skip'"):
        BlockAutoregressive(2, residual="skip")
    with pytest.raises(ValueError, match="positive integer"):
        BlockAutoregressive(2, [0])
    with pytest.raises(ValueError, match="fast='both'"):
        BlockAutoregressive(2, fast="both")
    with pytest.raises(ValueError, match="permutation"):
        BlockAutoregressive(2, order=[0, 0])
