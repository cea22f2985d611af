"""The slow direction of an autoregressive map against D passes of plain autograd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from pyro_nf.bijections import (
    Additive,
    Affine,
    LinearRationalSpline,
    RationalQuadraticSpline,
    ScalarBijection,
)
from pyro_nf.nn import MaskedMLP
from pyro_nf.transforms._sweep.sweep import sweep

torch.set_num_threads(1)


@dataclass(frozen=True)
class _SinhArcsinh(ScalarBijection):
    """y = c + sinh(exp(a) arcsinh(x) + b): its log-derivative depends on x and all parameters."""

    @property
    def param_count(self) -> int:
        return 3

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        a, b, c = params.unbind(0)
        a = a / (1 + a.abs())
        u = (torch.asinh(y - c) - b) * (-a).exp()
        return u.sinh(), u.cosh().log() - a - 0.5 * torch.log1p((y - c) ** 2)


def made(
    dim: int, params: int, hidden_dims: Sequence[int] = (9, 9), **options: object
) -> MaskedMLP:
    """Creates a float64 network whose parameters are far from zero."""
    generator = torch.Generator().manual_seed(dim)
    network = MaskedMLP(dim, params, hidden_dims, **{"activation": "tanh", **options}).double()
    for parameter in network.parameters():
        parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator).double()
    return network


def naive(
    network: MaskedMLP, bijection: ScalarBijection, y: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Solves by D network passes: pass p makes the input at position p right."""
    x = torch.zeros_like(y)
    for _ in range(network.input_dim):
        params = network(x, context).view(bijection.param_count, *y.shape)
        x, ladj = bijection.inverse(y, params)
    return x, ladj


def loss(x: Tensor, ladj: Tensor) -> Tensor:
    weight = torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype, device=x.device).view(x.shape)
    return (weight * x.sin()).sum() + (weight.square() * ladj).sum()


CASES = {
    "affine": (Affine(), {}),
    "sinh-arcsinh": (_SinhArcsinh(), {}),
    "shift": (Additive(), {}),
    "rational quadratic": (RationalQuadraticSpline(bins=4), {}),
    "linear rational": (LinearRationalSpline(bins=3), {}),
    "linear network": (Affine(), {"hidden_dims": ()}),
    "one narrow layer": (Affine(), {"hidden_dims": (2,)}),
    "uneven layers": (_SinhArcsinh(), {"hidden_dims": (3, 17, 8)}),
    "residual": (_SinhArcsinh(), {"hidden_dims": (9, 9, 9, 4, 4), "residual": "skip"}),
    "relu": (Affine(), {"activation": "relu"}),
    "function": (Affine(), {"activation": torch.sin}),
    "learned activation": (Affine(), {"activation": nn.PReLU()}),
    "order": (_SinhArcsinh(), {"order": [3, 0, 4, 1, 2]}),
    "context": (_SinhArcsinh(), {"context_dim": 2, "order": [4, 3, 0, 1, 2]}),
    "context, linear": (Affine(), {"context_dim": 2, "hidden_dims": ()}),
    "context, residual": (Affine(), {"context_dim": 2, "residual": "skip"}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch", [(), (6,), (2, 3), (0,)])
@pytest.mark.parametrize("dim", [1, 5])
def test_solution_and_gradients_equal_the_naive_ones(
    case: str, batch: tuple[int, ...], dim: int
) -> None:
    bijection, options = CASES[case]
    if dim == 1:
        options = {name: value for name, value in options.items() if name != "order"}
    network = made(dim, bijection.param_count, **options)
    inputs = [torch.randn(dim, *batch, dtype=torch.float64, requires_grad=True)]
    if network.context_dim:
        inputs.append(torch.randn(*batch[-1:], 2, dtype=torch.float64, requires_grad=True))
    results = []
    for solve in (sweep, naive):
        x, ladj = solve(network, bijection, *inputs)
        tensors = [*inputs, *network.parameters()]
        grads = torch.autograd.grad(
            loss(x, ladj), tensors, allow_unused=True, materialize_grads=True
        )
        results.append((x, ladj, grads))
    (x, ladj, grads), (x_naive, ladj_naive, grads_naive) = results
    assert x.shape == ladj.shape == (dim, *batch)
    torch.testing.assert_close(x, x_naive, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ladj, ladj_naive, rtol=1e-10, atol=1e-10)
    for grad, grad_naive in zip(grads, grads_naive, strict=True):
        torch.testing.assert_close(grad, grad_naive, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("context_batch", [(), (1,), (3,), (1, 3), (2, 1), (2, 3)])
def test_smaller_context_batch(context_batch: tuple[int, ...]) -> None:
    network, bijection = made(4, 2, context_dim=2), Affine()
    y = torch.randn(4, 2, 3, dtype=torch.float64)
    context = torch.randn(*context_batch, 2, dtype=torch.float64, requires_grad=True)
    found = sweep(network, bijection, y, context)
    expected = naive(network, bijection, y, context)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    grads = [torch.autograd.grad(loss(*pair), context) for pair in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)


def test_inverts_the_fast_direction() -> None:
    network, bijection = made(6, 2, (40, 40), order=[5, 3, 1, 0, 2, 4]), Affine()
    x = torch.randn(6, 20, dtype=torch.float64)
    y, ladj = bijection.forward(x, network(x).view(2, 6, 20))
    found, inverse_ladj = sweep(network, bijection, y)
    torch.testing.assert_close(found, x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(inverse_ladj, -ladj, rtol=1e-10, atol=1e-10)


def test_fresh_network_gives_the_identity() -> None:
    y = torch.randn(4, 5)
    x, ladj = sweep(MaskedMLP(4, 2), Affine(), y)
    assert torch.equal(x, y)
    assert torch.equal(ladj, torch.zeros_like(y))


def test_order_restored_from_a_checkpoint() -> None:
    saved = made(4, 2, order=[3, 1, 0, 2])
    loaded = MaskedMLP(4, 2, (9, 9), activation="tanh").double()
    loaded.load_state_dict(saved.state_dict())
    y = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(sweep(loaded, Affine(), y), sweep(saved, Affine(), y))


def test_every_parameter_gets_a_gradient() -> None:
    network = made(5, 3, context_dim=2)
    y, context = torch.randn(5, 6).double(), torch.randn(6, 2).double()
    loss(*sweep(network, _SinhArcsinh(), y, context)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("residual", ["none", "skip"])
def test_second_derivatives(residual: str) -> None:
    network = made(3, 3, (3, 3), context_dim=1, residual=residual, order=[2, 0, 1])
    names, values = zip(*network.named_parameters(), strict=True)

    def solve(y: Tensor, context: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        for name, parameter in zip(names, parameters, strict=True):
            module, _, leaf = name.rpartition(".")
            owner = network.get_submodule(module)
            del owner._parameters[leaf]
            owner._parameters[leaf] = parameter
        return sweep(network, _SinhArcsinh(), y, context)

    y = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    context = torch.randn(2, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(solve, (y, context, *values))
    assert torch.autograd.gradgradcheck(solve, (y, context, *values))


def test_gradient_penalty_equals_the_naive_one() -> None:
    network, bijection = made(4, 3), _SinhArcsinh()
    y = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    results = []
    for solve in (sweep, naive):
        (grad,) = torch.autograd.grad(loss(*solve(network, bijection, y)), y, create_graph=True)
        results.append(torch.autograd.grad(grad.square().sum(), [y, *network.parameters()]))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def test_vmap_grad_jacobian_and_jvp() -> None:
    network, bijection = made(4, 3), _SinhArcsinh()
    y = torch.randn(5, 4, dtype=torch.float64)

    def solve(row: Tensor) -> Tensor:
        return sweep(network, bijection, row)[0]

    torch.testing.assert_close(torch.vmap(solve)(y), solve(y.t()).t())
    jacobian = torch.autograd.functional.jacobian(solve, y[0])
    torch.testing.assert_close(torch.func.jacrev(solve)(y[0]), jacobian)
    torch.testing.assert_close(torch.func.jacfwd(solve)(y[0]), jacobian)
    vectorized = torch.autograd.functional.jacobian(solve, y[0], vectorize=True)
    torch.testing.assert_close(vectorized, jacobian)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(y[0], torch.ones_like(y[0]))
        tangent = torch.autograd.forward_ad.unpack_dual(solve(dual)).tangent
    torch.testing.assert_close(tangent, jacobian.sum(1))
    ladj = sweep(network, bijection, y[0])[1]
    torch.testing.assert_close(ladj.sum(), torch.linalg.slogdet(jacobian)[1])


def test_compiles_without_a_break() -> None:
    network, bijection = made(3, 2), Affine()
    y = torch.randn(3, 4, dtype=torch.float64)
    compiled = torch.compile(
        lambda y: sweep(network, bijection, y), fullgraph=True, backend="eager"
    )
    torch.testing.assert_close(compiled(y), sweep(network, bijection, y))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traces_with_gradients() -> None:
    network, bijection = made(3, 2), Affine()

    def total(y: Tensor, bias: Tensor) -> Tensor:
        return loss(*sweep(network, bijection, y + bias[:, None]))

    network.requires_grad_(requires_grad=False)
    y, bias = torch.randn(3, 4).double(), torch.randn(3).double().requires_grad_()
    traced = torch.jit.trace(total, (y, bias), check_trace=False)
    grads = [torch.autograd.grad(function(y, bias), bias) for function in (traced, total)]
    torch.testing.assert_close(*grads)


def test_meta() -> None:
    network = MaskedMLP(4, 2, (9, 9), context_dim=2).to("meta")
    y = torch.randn(4, 3, 5, device="meta", requires_grad=True)
    x, ladj = sweep(network, Affine(), y, torch.randn(5, 2, device="meta"))
    (x.sum() + ladj.sum()).backward()
    assert x.is_meta
    assert y.grad.shape == x.shape == ladj.shape == (4, 3, 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_dtype_follows(dtype: torch.dtype) -> None:
    network = made(4, 2, context_dim=2).to(dtype)
    y = torch.randn(4, 5, dtype=dtype, requires_grad=True)
    x, ladj = sweep(network, Affine(), y, torch.randn(5, 2, dtype=dtype))
    (x.sum() + ladj.sum()).backward()
    assert x.dtype == ladj.dtype == y.grad.dtype == dtype


def test_gradient_of_one_output_alone() -> None:
    network, bijection = made(4, 3), _SinhArcsinh()
    y = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    for output in (0, 1):
        grads = [
            torch.autograd.grad(solve(network, bijection, y)[output].square().sum(), y)
            for solve in (sweep, naive)
        ]
        torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)


def test_context_features_are_computed_once_per_row() -> None:
    network = made(4, 2, context_dim=2)
    shapes = [tuple(v.shift.shape) for v in network.layer_values(torch.randn(3, 2).double())]
    assert shapes == [(9, 3), (9, 3), (8,)]
