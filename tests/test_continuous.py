"""Continuous layers: their solutions, how exact they are, and what they integrate besides."""

from __future__ import annotations

import math
from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch
from case import perturb
from own_fields import TIGHT, Formula, layer_of, mlp, points
from torch import Tensor, nn

from pyro_nf import flows
from pyro_nf.nn import FieldMLP, PotentialField
from pyro_nf.transforms import Continuous
from pyro_nf.transforms._continuous.solver import ADAPTIVE

torch.set_num_threads(1)

ORDERS = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
BOTH = pytest.mark.parametrize("direction", ["forward", "inverse"])


def run(layer: Continuous, direction: str, x: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
    return getattr(layer, f"{direction}_and_ladj")(x, *context)


def evaluations(layer: Continuous) -> tuple[int, int]:
    return layer.evaluations.forward, layer.evaluations.backward


def error(got: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> float:
    """The largest error, relative to 1 + |value|."""
    pairs = zip(got, want, strict=True)
    return max(float(((g - w).abs() / (1 + w.abs())).max()) for g, w in pairs)


# ------------------------------------------------------------------------------ closed solutions


def affine_solution(field: FieldMLP, time: float, x: Tensor) -> Tensor:
    """The solution of dz/dt = W z + b + t w, by one matrix exponential of (z, t, 1)."""
    size = field.input_dim
    system = torch.zeros(size + 2, size + 2).double()
    system[:size, :size], system[:size, -1] = field.output.weight, field.output.bias
    if field.output.time_weight is not None:
        system[:size, size] = field.output.time_weight
    system[size, -1] = 1
    start = torch.cat([x, x.new_zeros(len(x), 1), x.new_ones(len(x), 1)], 1)
    return (start @ torch.linalg.matrix_exp(time * system).t())[:, :size]


@torch.no_grad()
@pytest.mark.parametrize("time", ["none", "concat"])
@pytest.mark.parametrize("solver", ADAPTIVE)
def test_affine_fields_against_the_matrix_exponential(time: str, solver: str) -> None:
    field, x = mlp(3, (), time=time), points(6, 3)
    rtol = 1e-5 if solver in ("fehlberg2", "adaptive_heun") else 1e-8
    bound = 200 * rtol if solver == "fehlberg2" else 30 * rtol  # its two formulas nearly agree
    layer = layer_of(field, solver=solver, rtol=rtol, atol=rtol, end_time=0.7)
    want = affine_solution(field, 0.7, x)
    ladj = (0.7 * field.output.weight.trace()).expand(6)
    assert error(layer.forward_and_ladj(x), (want, ladj)) <= bound
    assert error(layer.inverse_and_ladj(want), (x, -ladj)) <= bound


@torch.no_grad()
@BOTH
def test_squashed_field_against_its_integral(direction: str) -> None:
    """The divergence Σ Wᵢᵢ σ(gᵢ + t uᵢ) is free of z, and its integral a softplus."""
    field, end = mlp(3, ()), 1.3
    out = field.output
    softplus = nn.functional.softplus
    spread = softplus(out.gate_bias + end * out.gate_time) - softplus(out.gate_bias)
    want = (out.weight.diagonal() * spread / out.gate_time).sum()
    want = want if direction == "forward" else -want
    ladj = run(layer_of(field, end_time=end, **TIGHT), direction, points(4, 3))[1]
    assert error((ladj,), (want.expand(4),)) <= 30e-9


@torch.no_grad()
def test_flow_along_an_affine_field_is_a_normal_distribution() -> None:
    flow, x = flows.cnf(3, hidden_dims=(), time="none", **TIGHT).double(), points(40, 3, seed=2)
    field = flow.transform.parts[0].field
    perturb(field, 0.6)
    loc = affine_solution(field, 1.0, torch.zeros(1, 3).double())[0]
    root = torch.linalg.matrix_exp(field.output.weight)
    normal = dist.MultivariateNormal(loc, root @ root.t())
    torch.testing.assert_close(flow().log_prob(x), normal.log_prob(x), rtol=1e-7, atol=1e-7)
    draws = flow().sample((4000,))
    assert ((draws.mean(0) - loc).abs() <= 4 * normal.variance.sqrt() / math.sqrt(4000)).all()
    whitened = torch.linalg.solve_triangular(normal.scale_tril, (draws - loc).t(), upper=False)
    assert (whitened.cov() - torch.eye(3)).abs().max() <= 4 * math.sqrt(2 / 4000)


@torch.no_grad()
@pytest.mark.parametrize("name", ["cnf", "rnode", "ot_flow"])
def test_density_integrates_to_one(name: str) -> None:
    sizes = {"hidden_dim": 8} if name == "ot_flow" else {"hidden_dims": (8, 8)}
    flow = getattr(flows, name)(2, **sizes).double().eval()
    perturb(flow, 0.5)
    edge = torch.linspace(-12, 12, 161).double()
    density = flow().log_prob(torch.cartesian_prod(edge, edge)).exp()
    assert abs(density.sum() * (edge[1] - edge[0]) ** 2 - 1) <= 1e-3


# -------------------------------------------------------------------------------------- accuracy


@torch.no_grad()
@pytest.mark.parametrize("rtol", [1e-5, 1e-6, 1e-7])
@pytest.mark.parametrize(
    "make",
    [lambda: mlp(4, (16, 16)), lambda: mlp(2, (12,), activation="softplus"), lambda: potential()],
    ids=["mlp", "softplus", "potential"],
)
def test_errors_are_of_the_order_of_the_tolerance(make: Callable, rtol: float) -> None:
    torch.manual_seed(0)
    field = make()
    x = points(8, field.input_dim)
    y, ladj = layer_of(field, rtol=1e-12, atol=1e-12).forward_and_ladj(x)
    layer = layer_of(field, rtol=rtol, atol=rtol, norm="sample")
    assert error(layer.forward_and_ladj(x), (y, ladj)) <= 30 * rtol
    assert error(layer.inverse_and_ladj(y), (x, -ladj)) <= 30 * rtol
    for norm in ("rms", "max", "sample"):
        layer = layer_of(field, rtol=rtol, atol=rtol, norm=norm)
        together = layer.forward_and_ladj(x)
        alone = zip(*(layer.forward_and_ladj(row) for row in x), strict=True)
        assert error(tuple(map(torch.stack, alone)), together) <= 50 * rtol


def potential() -> PotentialField:
    field = PotentialField(3, 8).double()
    perturb(field, 0.4)
    return field


@torch.no_grad()
def test_one_hard_row_among_many_is_exact_in_evaluation() -> None:
    field = Formula(lambda a, t, z: -a * z**3)
    x = torch.cat([points(999, 1) / 10, torch.tensor([[6.0]]).double()])
    want = x / (1 + 2 * x**2).sqrt(), -1.5 * (1 + 2 * x**2).log()[:, 0]
    layer = layer_of(field, 1)
    in_training = error(layer.forward_and_ladj(x), want)
    in_evaluation = error(layer.eval().forward_and_ladj(x), want)
    assert in_evaluation <= 30e-5
    assert in_training > 2 * in_evaluation  # the mean over rows, which costs less


@torch.no_grad()
def test_euler_is_the_residual_network() -> None:
    field, x = mlp(3, (6, 5)), points(5, 3)
    end, k = 1.5, 7
    layer = layer_of(field, solver="euler", steps=k, end_time=end)
    z, ladj = x, x.new_zeros(5)
    for i in range(k):
        t = torch.tensor(end * i / k, dtype=torch.float64)
        columns, values, _ = field.columns(z, None)
        ladj = ladj + end / k * field.with_divergence(values, t, columns)[1]
        z = z + end / k * field(t, z)
    assert error(layer.forward_and_ladj(x), (z, ladj)) <= 1e-12
    assert evaluations(layer) == (k, 0)


@torch.no_grad()
@pytest.mark.parametrize(("solver", "order"), ORDERS.items())
def test_fixed_steps_converge_at_their_order(solver: str, order: int) -> None:
    field, x = mlp(3, (6, 5)), points(5, 3)
    want = layer_of(field, rtol=1e-12, atol=1e-12).forward_and_ladj(x)
    errors = [
        error(layer_of(field, solver=solver, steps=k).forward_and_ladj(x), want) for k in (32, 64)
    ]
    assert errors[1] <= 0.02
    assert abs(math.log2(errors[0] / errors[1]) - order) <= 0.3


@torch.no_grad()
@pytest.mark.parametrize("time", ["concat", "concatsquash"])
@pytest.mark.parametrize("solver", ["explicit_adams", "implicit_adams"])
def test_multistep_methods(solver: str, time: str) -> None:
    field, x = mlp(3, (6, 5), time=time), points(5, 3)
    want = layer_of(field, rtol=1e-12, atol=1e-12).forward_and_ladj(x)
    errors = []
    for k in (30, 60):
        layer = layer_of(field, solver=solver, steps=k)
        y, ladj = layer.forward_and_ladj(x)
        errors.append(error((y, ladj), want))
        assert error(layer.inverse_and_ladj(y), (x, -ladj)) <= 1e-4
    assert errors[1] <= min(1e-5, errors[0] / 10)  # fourth order or more, and stable
