"""Residual layers: log-determinants, their estimates, the fixed point and its gradients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pyro_nf import flows, infer
from pyro_nf.bijections import ConvergenceError, Root
from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.nn._lipschitz_function import LipschitzFunction
from pyro_nf.transforms import InvertibleResidual, LogDetSeries
from pyro_nf.transforms._residual import implicit
from pyro_nf.transforms._residual.exact import log_det_plus_identity
from pyro_nf.transforms._residual.fixed_point import solve
from pyro_nf.transforms._residual.series import roulette_weights, series_log_det

torch.set_num_threads(1)


def perturbed(size: int, scale: float = 1.0, **options: object) -> InvertibleResidual:
    torch.manual_seed(0)
    options = {"fast": "log_prob", "hidden_dims": (12, 8)} | options
    layer = InvertibleResidual(size, **options).double().eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=scale)
    return layer


def trained(size: int, steps: int = 60) -> Flow:
    """A flow of two layers after a short fit of correlated, skewed data."""
    torch.manual_seed(1)
    flow = Flow(
        DiagonalNormal(size),
        [InvertibleResidual(size, fast="log_prob", hidden_dims=(16, 16)) for _ in range(2)],
    ).double()
    data = (torch.randn(256, size) @ torch.randn(size, size) / size).double()
    data = data + 0.5 * data.square()
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (-flow().log_prob(data).mean()).backward()
        optimizer.step()
    return flow.eval()


def sign_vectors(size: int) -> Tensor:
    """All vectors of signs, ``(2**size, size)``: averages over them are exact traces."""
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=size))).double()


def bound_function(layer: InvertibleResidual, rows: int) -> LipschitzFunction:
    return layer.network.read(None, torch.Size([rows]))


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_log_det_and_inverse_after_training(size: int) -> None:
    flow = trained(size)
    x = torch.randn(20, size).double()
    for layer in flow.transform.parts:
        to_base = lambda v, layer=layer: layer.inverse_and_ladj(v)[0]  # noqa: E731
        y, ladj = layer.forward_and_ladj(x)
        back, back_ladj = layer.inverse_and_ladj(y)
        assert (back - x).abs().max() <= 1e-12
        for i in range(len(x)):
            jacobian = torch.autograd.functional.jacobian(to_base, y[i])
            want = torch.linalg.slogdet(jacobian)[1]
            assert (back_ladj[i] - want).abs() <= 1e-10
            assert (ladj[i] + want).abs() <= 1e-10


@pytest.mark.parametrize("fast", ["log_prob", "sample"])
def test_density_integrates_to_one(fast: str) -> None:
    layer = perturbed(2, fast=fast, lipschitz=0.7)
    edge = torch.linspace(-20, 20, 301).double()
    grid = torch.cartesian_prod(edge, edge)
    with torch.no_grad():
        density = Flow(DiagonalNormal(2).double(), layer)().log_prob(grid).exp()
    cell = (edge[1] - edge[0]) ** 2
    assert abs(density.sum() * cell - 1) <= 1e-3


def test_truncated_series_stays_within_its_bound() -> None:
    layer = perturbed(3, lipschitz=0.8)
    x = torch.randn(3, 1).double()
    g = bound_function(layer, 8)
    want = log_det_plus_identity(bound_function(layer, 1).with_jacobian(x)[1])
    signs = sign_vectors(3).mT
    for terms in (2, 5, 20, 120):
        _, estimate = series_log_det(g, x.expand(3, 8), signs, [1.0] * terms, "exact")
        bound = 3 * 0.8 ** (terms + 1) / ((terms + 1) * (1 - 0.8))
        assert abs(estimate.mean() - want) <= bound + 1e-12


def test_neumann_gradient_has_the_gradient_of_the_log_det() -> None:
    layer = perturbed(3, lipschitz=0.8)
    x = torch.randn(3, 1).double().requires_grad_()
    leaves = [x, *layer.parameters()]
    exact = log_det_plus_identity(bound_function(layer, 1).with_jacobian(x)[1]).sum()
    want = torch.autograd.grad(exact, leaves, allow_unused=True)
    for gradient in ("exact", "neumann"):
        _, estimate = series_log_det(
            bound_function(layer, 8), x.expand(3, 8), sign_vectors(3).mT, [1.0] * 130, gradient
        )
        got = torch.autograd.grad(estimate.mean(), leaves, allow_unused=True)
        for a, b in zip(got, want, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_roulette_is_unbiased_with_its_gradient() -> None:
    layer = perturbed(4, lipschitz=0.6, hidden_dims=(8,), log_det="roulette").train()
    weight = layer.network.linears[-1].linear.weight
    x = torch.randn(1, 4).double()
    exact = log_det_plus_identity(bound_function(layer, 1).with_jacobian(x.mT)[1]).sum()
    want = torch.stack([exact.detach(), torch.autograd.grad(exact, weight)[0].sum()])
    draws = []
    for _ in range(500):  # calls share the number of terms among their rows: 20 rows each
        estimate = layer.inverse_and_ladj(x.expand(20, 4))[1].mean()
        gradient = torch.autograd.grad(estimate, weight)[0].sum()
        draws.append(torch.stack([estimate.detach(), gradient]))
    draws = torch.stack(draws)
    error = (draws.mean(0) - want).abs() / (draws.std(0) / math.sqrt(len(draws)))
    assert (error <= 4).all(), error
    assert (draws.std(0) > 0).all()


def test_roulette_weights_are_reciprocal_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [roulette_weights(2, 0.5, generator) for _ in range(4000)]
    for term, want in ((1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0)):
        mean = sum(w[term - 1] for w in draws if len(w) >= term) / len(draws)
        assert abs(mean - want) <= 4 * math.sqrt(2 ** max(0, term - 2) / len(draws))
    assert all(w[:2] == [1.0, 1.0] for w in draws)


def graph_size(value: Tensor) -> int:
    """The number of operations whose tensors wait for the backward pass."""
    found, left = set(), [value.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in found:
            found.add(node)
            left += [parent for parent, _ in node.next_functions]
    return len(found)


def test_neumann_gradient_keeps_memory_flat_in_the_terms() -> None:
    layer = perturbed(3, hidden_dims=())  # a linear map: its powers last
    x, g = torch.randn(3, 50).double(), bound_function(layer, 50)
    sizes = {
        (gradient, terms): graph_size(
            series_log_det(g, x, torch.ones_like(x), [1.0] * terms, gradient)[1]
        )
        for gradient in ("exact", "neumann")
        for terms in (5, 50)
    }
    assert sizes["neumann", 50] == sizes["neumann", 5]
    assert sizes["exact", 50] > 4 * sizes["exact", 5]


def test_the_series_stops_where_the_rest_is_below_rounding() -> None:
    layer = perturbed(3, lipschitz=0.1)
    x, g = torch.randn(3, 5).double(), bound_function(layer, 5)
    few, some, many = (
        series_log_det(g, x, torch.ones_like(x), [1.0] * terms, "exact")[1]
        for terms in (8, 20, 50)
    )
    assert graph_size(many) == graph_size(some)
    assert torch.equal(many, some)
    torch.testing.assert_close(many, few, rtol=0, atol=1e-8)


def test_second_derivatives_of_the_neumann_estimate_raise() -> None:
    layer = perturbed(3, log_det="series", series=LogDetSeries(terms=3, eval_probes=1)).train()
    y = torch.randn(5, 3).double().requires_grad_()
    slope = torch.autograd.grad(layer.inverse_and_ladj(y)[1].sum(), y, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        slope.sum().backward()
    layer.eval()
    assert torch.autograd.gradgradcheck(lambda v: layer.inverse_and_ladj(v)[1], y[:1])


def test_series_in_evaluation_is_a_function_of_the_row() -> None:
    options = {"log_det": "series", "series": LogDetSeries(terms=10)}
    layer = perturbed(70, **options)
    y = torch.randn(6, 70).double()
    first, second = (layer.inverse_and_ladj(y)[1] for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(layer.inverse_and_ladj(y[2])[1], first[2])
    torch.testing.assert_close(perturbed(70, **options).inverse_and_ladj(y)[1], first)
    layer.train()
    torch.manual_seed(5)
    noisy = layer.inverse_and_ladj(y)[1]
    assert not torch.equal(noisy, layer.inverse_and_ladj(y)[1])
    torch.manual_seed(5)
    assert torch.equal(noisy, layer.inverse_and_ladj(y)[1])


def test_estimates_come_near_the_exact_log_det() -> None:
    y = torch.randn(40, 8).double()
    want = perturbed(8, lipschitz=0.7).inverse_and_ladj(y)[1]
    series = LogDetSeries(terms=10, eval_probes=100)
    got = perturbed(8, lipschitz=0.7, log_det="series", series=series).inverse_and_ladj(y)[1]
    assert (got - want).abs().mean() <= 0.1 * want.std() + 0.02


@pytest.mark.parametrize(
    ("size", "training", "method"),
    [
        (64, True, "exact"),
        (65, True, "roulette"),
        (65, False, "exact"),
        (513, False, "series"),
    ],
)
def test_auto_goes_by_size_and_mode(size: int, training: bool, method: str) -> None:  # noqa: FBT001
    layer = InvertibleResidual(size, fast="log_prob", hidden_dims=(4,)).train(training)
    assert layer.log_det._method(training=training) == method
    assert layer.reusable == (method != "roulette")
    x, ladj = layer.inverse_and_ladj(torch.randn(3, size))
    assert x.shape == (3, size)
    assert torch.equal(ladj, torch.zeros(3))  # fresh: the identity


def test_own_draws_under_the_roulette_are_scored_anew() -> None:
    flow = Flow(DiagonalNormal(3), InvertibleResidual(3, fast="log_prob", log_det="roulette"))
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.3)
    d = flow()
    draw = d.rsample((4,))
    assert not torch.equal(d.log_prob(draw), d.log_prob(draw))


def test_power_iteration_moves_in_training_data_to_base_only() -> None:
    layer = InvertibleResidual(3, fast="log_prob", hidden_dims=(4,), norm="power")
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(5, 3)

    def moves(run: Callable[[], object]) -> bool:
        before = [buffer.clone() for buffer in layer.buffers()]
        run()
        return not all(map(torch.equal, before, layer.buffers()))

    assert not layer.reusable
    assert not moves(lambda: layer.forward_and_ladj(x))
    assert moves(lambda: layer.inverse_and_ladj(x))
    with torch.no_grad():
        assert not moves(lambda: layer.inverse_and_ladj(x))
    layer.eval()
    assert layer.reusable
    assert not moves(lambda: layer.inverse_and_ladj(x))
    torch.testing.assert_close(layer(layer.inv(x)), x)


def evaluations(g: Callable[[Tensor], Tensor], v: Tensor) -> int:
    count = 0

    def counted(u: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return g(u)

    u = solve(counted, v, Root(), "Test")
    assert (u + g(u) - v).abs().max() <= 1e-12 * (1 + v.abs().max())
    return count


def test_fixed_point_is_accelerated_where_the_plain_one_crawls() -> None:
    """The plain iteration needs about 2700 steps on these maps of Lipschitz constant 0.99."""
    torch.manual_seed(6)
    v = 3 * torch.randn(10, 100).double()
    q, r = torch.linalg.qr(torch.randn(2, 10, 10).double())[0]
    spread = torch.linspace(-0.99, 0.99, 10).double()
    maps: list[Callable[[Tensor], Tensor]] = [
        lambda u: q @ (spread[:, None] * (q.mT @ u)),
        lambda u: 0.99 * q @ u,
        lambda u: -0.99 * u.sin(),
        lambda u: 0.99 * q @ (r @ u).sin(),
        lambda u: 0.99 * q @ (r @ u).relu(),
        lambda u: -0.0099 * q @ (100 * r @ u).tanh(),
    ]
    for g in maps:
        assert evaluations(g, v) <= 60
    assert evaluations(torch.zeros_like, v) <= 2


def test_fixed_point_reports_what_it_cannot_find() -> None:
    v = torch.randn(3, 8).double()
    with pytest.raises(ConvergenceError, match="found no inverse for 8 of 8 rows within 2"):
        solve(lambda u: 0.9 * u.sin(), v, Root(iterations=2), "Test")
    v[1, 4] = torch.nan
    u = solve(lambda u: 0.9 * u.sin(), v, Root(), "Test")
    assert u.isnan().any(0).tolist() == [False] * 4 + [True] + [False] * 3


@pytest.mark.parametrize("factored", [64, 0], ids=["factored", "iterated"])
def test_gradients_through_the_inverse(factored: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implicit, "_LARGEST_FACTORED", factored)
    layer = perturbed(3, hidden_dims=(5,), activation="tanh")
    names, values = zip(*layer.named_parameters(), strict=True)

    class Forward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer.forward_and_ladj(x)

    def run(x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        state = {f"layer.{name}": p for name, p in zip(names, parameters, strict=True)}
        return torch.func.functional_call(Forward(), state, (x,))

    x = torch.randn(2, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(run, (x, *(v.detach().requires_grad_() for v in values)))
    assert torch.autograd.gradgradcheck(layer.forward_and_ladj, x)


def test_many_dimensions_invert_with_gradients() -> None:
    layer = perturbed(100, log_det="series", series=LogDetSeries(terms=5, eval_probes=1))
    x = torch.randn(4, 100).double().requires_grad_()
    back = layer.inverse_and_ladj(layer.forward_and_ladj(x)[0])[0]
    torch.testing.assert_close(back, x, rtol=0, atol=1e-10)
    weights = 1e-9 * torch.randn(4, 100).double()  # a gradient's size says nothing
    leaves = [x, *layer.parameters()]
    grads = torch.autograd.grad((weights * back).sum(), leaves, allow_unused=True)
    torch.testing.assert_close(grads[0], weights, rtol=0, atol=1e-18)
    assert all(g.abs().max() <= 1e-18 for g in grads[1:] if g is not None)


def test_autocast_is_stepped_around() -> None:
    flow = flows.residual_flow(3, transforms=2, hidden_dims=(8,), context_dim=2)
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, context = torch.randn(5, 3), torch.randn(5, 2)
    want = flow(context).log_prob(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(flow(context).log_prob(x), want)
        assert flow(context.bfloat16()).rsample().dtype == torch.float32


def test_options_are_checked() -> None:
    for bad in (1.0, 0.0, 1.5):
        with pytest.raises(ValueError, match="inside"):
            InvertibleResidual(2, fast="log_prob", lipschitz=bad)
    with pytest.raises(ValueError, match="log_det"):
        InvertibleResidual(2, fast="log_prob", log_det="hutchinson")
    with pytest.raises(ValueError, match="stop"):
        LogDetSeries(stop=1.0)
    with pytest.raises(ValueError, match="terms"):
        LogDetSeries(terms=0)


def test_the_named_flow_fits() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 2, generator=generator)
    x[:, 1] = 0.3 * x[:, 1] + x[:, 0].square()
    entropy = 1 + math.log(2 * math.pi) + math.log(0.3)  # of this banana
    flow = flows.residual_flow(2, transforms=3, hidden_dims=(16, 16))
    infer.fit_density(flow, x[:2000], max_steps=120, progress=False)
    with torch.no_grad():
        score = -flow().log_prob(x[2000:]).mean()
    assert score < entropy + 0.7  # a Gaussian stays 1.6 nats above
