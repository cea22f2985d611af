"""Continuous layers: what training and evaluation differ in, estimates, side results, counts."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from case import perturb
from own_fields import TIGHT, Formula, OwnField, OwnPotential, layer_of, mlp, points
from torch import Tensor, nn

from pyro_nf import flows
from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.nn import FieldConv, PotentialField
from pyro_nf.transforms import Continuous
from pyro_nf.transforms._continuous import rates
from pyro_nf.transforms._continuous.dynamics import Dynamics

torch.set_num_threads(1)

BOTH = pytest.mark.parametrize("direction", ["forward", "inverse"])
FIXED = {"solver": "rk4", "steps": 4}


def run(layer: Continuous, direction: str, x: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
    return getattr(layer, f"{direction}_and_ladj")(x, *context)


def counts(layer: Continuous) -> tuple[int, int]:
    return layer.evaluations.forward, layer.evaluations.backward


def flow_of(layer: Continuous) -> Flow:
    return Flow(DiagonalNormal(layer.input_dim).double(), layer)


# ------------------------------------------------------------------------- training, evaluation


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["cnf", "rnode", "ot_flow"])
def test_two_scores_are_equal_bitwise(name: str, training: bool) -> None:  # noqa: FBT001
    flow, x = getattr(flows, name)(3).train(training), points(20, 3).float()
    perturb(flow, 0.2)
    first, second = flow().log_prob(x), flow().log_prob(x)
    assert torch.equal(first, second)
    assert first.requires_grad


def test_evaluation_has_its_own_solver_and_keeps_gradients() -> None:
    field, x = mlp(), points(5, 2)
    layer = layer_of(
        field, **FIXED, eval_solver="dopri5", eval_rtol=1e-9, eval_atol=1e-9, eval_trace="exact"
    )
    coarse, fine = layer_of(field, **FIXED), layer_of(field, **TIGHT)
    for mode, twin in ((True, coarse), (False, fine)):
        got, want = layer.train(mode).forward_and_ladj(x), twin.forward_and_ladj(x)
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)
        gradients = [
            torch.autograd.grad(ladj.sum(), field.output.weight) for _, ladj in (got, want)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-7)
    assert counts(coarse) == (16, 0)
    assert counts(layer)[0] != 16
    looser = layer_of(field, **TIGHT, eval_rtol=1e-3, eval_atol=1e-3)
    looser.forward_and_ladj(x)
    tight = counts(looser)[0]
    looser.eval().forward_and_ladj(x)
    assert counts(looser)[0] < tight / 2


def test_an_own_draw_is_scored_without_a_new_solve() -> None:
    flow = flow_of(layer_of(mlp(), trace="hutchinson"))
    d = flow()
    draw = d.rsample((4,))
    solve = flow.transform.evaluations
    reused = d.log_prob(draw)
    assert flow.transform.evaluations is solve
    assert not torch.equal(reused, d.log_prob(draw.clone()))  # another random vector
    assert flow.transform.evaluations is not solve


def test_the_end_time_varies_in_training_alone() -> None:
    drift = Formula(lambda a, t, z: (a * torch.ones_like(t)).expand_as(z))  # y = x + T
    layer = layer_of(drift, 1, end_time=2.0, steer=0.5, solver="euler", steps=1)
    with torch.no_grad():
        draws = torch.stack([layer(torch.zeros(1).double())[0] for _ in range(200)])
    assert (draws - 2).abs().max() <= 0.5
    assert (draws - 2).abs().max() >= 0.45
    assert abs(draws.mean() - 2) <= 4 * 0.5 / math.sqrt(3 * 200)
    assert torch.allclose(layer.eval()(torch.zeros(3, 1).double()), torch.tensor(2.0).double())


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
@pytest.mark.parametrize(("solver", "stages"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
@BOTH
def test_evaluations_of_fixed_steps(direction, solver, stages, gradient) -> None:
    layer = layer_of(mlp(), solver=solver, steps=5, gradient=gradient)
    run(layer, direction, points(3, 2))[1].sum().backward()
    assert counts(layer) == (5 * stages, 0 if gradient == "backprop" else 5 * stages)


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
@BOTH
def test_evaluations_are_those_of_the_field(direction: str, gradient: str) -> None:
    field, calls = OwnField(), []
    layer = layer_of(field, 2, scale=0.6, gradient=gradient)
    field.register_forward_hook(lambda *_: calls.append(1))
    ladj = run(layer, direction, points(3, 2))[1]
    forward = len(calls) - (gradient != "backprop")  # one looks for tensors out of reach
    assert counts(layer) == (forward, 0)
    ladj.sum().backward()
    assert counts(layer) == (forward, 0 if gradient == "backprop" else len(calls) - forward - 1)
    assert (forward - 2) % 6 == 0  # two choose the first step
    if gradient == "checkpoint":
        assert 0 < counts(layer)[1] <= forward - 2


# --------------------------------------------------------------------------------- random traces


@torch.no_grad()
@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
@pytest.mark.parametrize("kind", ["field", "module"])
@BOTH
def test_estimates_are_unbiased(direction: str, kind: str, probe: str) -> None:
    field = mlp(3) if kind == "field" else OwnField(3)
    sizes = () if kind == "field" else (3,)
    exact = layer_of(field, *sizes, scale=0.6, trace="exact", **TIGHT)
    layer = layer_of(field, *sizes, trace="hutchinson", probe=probe, rtol=1e-6, atol=1e-6)
    x = points(1, 3)
    with exact.auxiliary(["jacobian"]) as sides:
        want = run(exact, direction, x)
    with layer.auxiliary(["jacobian"]) as estimated:
        y, ladj = run(layer, direction, x.expand(4000, 3))
    torch.testing.assert_close(y, want[0].expand(4000, 3), rtol=1e-4, atol=1e-4)
    for draws, mean in ((ladj, want[1]), (estimated["jacobian"], sides["jacobian"])):
        assert draws.std() > 0.05
        assert abs(draws.mean() - mean) <= 4 * draws.std() / math.sqrt(4000)


@torch.no_grad()
def test_the_random_vector_holds_through_a_solve() -> None:
    """εᵀWε takes two values for signs ε; a vector that changed on the way would mix them."""
    field = mlp(2, (), time="none")
    w = field.output.weight
    layer = layer_of(field, trace="hutchinson")
    ladj = layer.forward_and_ladj(points(200, 2))[1]
    off = (ladj - w.trace()).abs()
    torch.testing.assert_close(off, (w[0, 1] + w[1, 0]).abs().expand(200))
    assert ladj.unique().numel() > 1


def test_evaluation_is_random_only_on_request() -> None:
    x = points(6, 2)
    for options, random in (({}, False), ({"eval_trace": "hutchinson"}, True)):
        layer = layer_of(mlp(2, (4, 4, 4)), trace="hutchinson", **options)
        for mode, differs in ((True, True), (False, random)):
            first, second = (layer.train(mode).forward_and_ladj(x)[1] for _ in range(2))
            assert torch.equal(first, second) != differs


# ----------------------------------------------------------------------------------- side results


def potential() -> PotentialField:
    field = PotentialField(2, 5).double()
    perturb(field, 0.5)
    return field


@pytest.mark.parametrize("make", [mlp, potential, lambda: layer_of(OwnField(), 2).field])
@BOTH
def test_side_results_are_integrals_along_the_path(make, direction: str) -> None:
    """Against Gauss and Legendre's rule on states solved for one by one."""
    field, end = make(), 1.2
    size = () if hasattr(field, "input_dim") else (2,)
    x = points(3, 2)
    layer = layer_of(field, *size, end_time=end, trace="exact", **TIGHT)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    want = dict.fromkeys(layer.side_results, torch.zeros(3).double())
    for node, weight in zip(nodes, weights, strict=True):
        t = end * (1 + node) / 2
        z = layer_of(field, *size, end_time=t, **TIGHT)(x).detach()
        t = torch.tensor(t, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda v, t=t: field(t, v).sum(0), z)
        now = {"kinetic": field(t, z).square().sum(1), "jacobian": jacobian.square().sum((0, 2))}
        if "hjb" in want:
            columns, values, _ = field.columns(z, None)
            now["hjb"] = field.side_rate("hjb", values, t, columns)
        want = {name: want[name] + end / 2 * weight * now[name] for name in want}
    start = x if direction == "forward" else layer(x).detach()
    with layer.auxiliary() as got:
        run(layer, direction, start)
    # The residual is an absolute value, with a kink where it passes 0.
    slack = {"hjb": 1e-2}
    for name, integral in want.items():
        close = slack.get(name, 1e-6)
        torch.testing.assert_close(got[name], integral, rtol=close, atol=close)


@pytest.mark.parametrize("trace", ["closed", "exact", "hutchinson"])
def test_side_results_cost_nothing_unless_collected(trace: str, monkeypatch) -> None:
    layer, x = layer_of(potential(), trace=trace), points(2, 5, 2)
    sizes, results, plain = [], {}, Dynamics.initial

    def noted(dynamics: Dynamics, z: Tensor) -> Tensor:
        state = plain(dynamics, z)
        sizes.append(len(state))
        return state

    monkeypatch.setattr(Dynamics, "initial", noted)
    for names in ((), ("kinetic",), ("kinetic", "jacobian", "hjb")):
        torch.manual_seed(0)
        with layer.auxiliary(names) if names else nullcontext({}) as sides:
            y, ladj = layer.forward_and_ladj(x)
        assert set(sides) == set(names)
        assert all(side.shape == (2, 5) for side in sides.values())
        results[names] = y, ladj, counts(layer)
    assert sizes == [10 * (3 + extra) for extra in (0, 1, 3)]
    for y, ladj, count in results.values():
        assert torch.equal(y, results[()][0])
        assert torch.equal(ladj, results[()][1])
        assert count == results[()][2]


@pytest.mark.parametrize("name", ["kinetic", "jacobian", "hjb"])
def test_side_results_have_gradients_in_every_mode(name: str) -> None:
    gradients = {}
    for gradient in ("backprop", "checkpoint", "adjoint"):
        layer = layer_of(potential(), gradient=gradient, trace="exact", rtol=1e-7, atol=1e-7)
        with layer.auxiliary([name]) as sides:
            layer.inverse_and_ladj(points(4, 2))
        sides[name].mean().backward()
        gradients[gradient] = [parameter.grad for parameter in layer.parameters()]
    same_steps = gradients["checkpoint"], gradients["backprop"]
    torch.testing.assert_close(*same_steps, rtol=1e-9, atol=1e-11)
    # The derivative of the residual's absolute value jumps, which the other steps feel.
    close = 1e-2 if name == "hjb" else 1e-5
    torch.testing.assert_close(gradients["adjoint"], gradients["backprop"], rtol=close, atol=close)


@torch.no_grad()
def test_tangents_in_groups_make_the_same_sums(monkeypatch) -> None:
    layer, x = layer_of(mlp(5, (4, 4, 4))), points(3, 5)
    results = []
    for group in (rates._GROUP, 6):  # all five at once, or two, two and one
        monkeypatch.setattr(rates, "_GROUP", group)
        with layer.auxiliary(["jacobian"]) as sides:
            ladj = layer.forward_and_ladj(x)[1]
        results.append((ladj, sides["jacobian"]))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-13)


# ------------------------------------------------------------------------------- images, contexts


@torch.no_grad()
@BOTH
def test_log_det_of_images_is_autograds(direction: str) -> None:
    layer = layer_of(FieldConv(2, (3,)), (2, 4, 4), scale=0.3, rtol=1e-7, atol=1e-7)
    assert "'exact'" in repr(layer)
    mapped = layer_of(layer.field, (2, 4, 4), trace="hutchinson", rtol=1e-7, atol=1e-7)
    x = points(2, 2, 4, 4)
    y, ladj = run(layer, direction, x)
    for i in range(2):
        with torch.enable_grad():
            jacobian = torch.autograd.functional.jacobian(
                lambda v: run(mapped, direction, v)[0].flatten(), x[i]
            )
        want = torch.linalg.slogdet(jacobian.reshape(32, 32))[1]
        torch.testing.assert_close(ladj[i], want, rtol=3e-6, atol=3e-6)
    back = run(layer, {"forward": "inverse", "inverse": "forward"}[direction], y)
    torch.testing.assert_close(back, (x, -ladj), rtol=3e-6, atol=3e-6)


@torch.no_grad()
def test_images_of_many_numbers_are_estimated_in_training_alone() -> None:
    layer = layer_of(FieldConv(1, (3,)), (1, 9, 8), scale=0.3, rtol=1e-4, atol=1e-4)
    x = points(2, 1, 9, 8)
    training = [layer.forward_and_ladj(x)[1] for _ in range(2)]
    evaluated = [layer.eval().forward_and_ladj(x)[1] for _ in range(2)]
    assert not torch.equal(*training)
    assert torch.equal(*evaluated)


@torch.no_grad()
@pytest.mark.parametrize("trace", ["auto", "hutchinson"])
def test_batches_of_images(trace: str) -> None:
    layer = layer_of(FieldConv(2, (3,), context_dim=3), (2, 4, 4), context_dim=3, trace=trace)
    for batch, given in (((2, 5), (5,)), ((), (7,)), ((0,), ()), ((3, 1), (2,))):
        common = torch.broadcast_shapes(batch, given)
        y, ladj = layer.forward_and_ladj(points(*batch, 2, 4, 4), points(*given, 3))
        assert y.shape == (*common, 2, 4, 4)
        assert ladj.shape == common
        assert layer.condition(points(*given, 3)).inv(y).shape == y.shape


@torch.no_grad()
@pytest.mark.parametrize("kind", ["field", "module"])
def test_rows_have_their_own_context(kind: str) -> None:
    field = mlp(2, context_dim=3) if kind == "field" else OwnField(2, 3)
    sizes = {} if kind == "field" else {"input_dim": 2, "context_dim": 3}
    layer = layer_of(field, **sizes, scale=0.6, **TIGHT)
    x, context = points(2, 5, 2), points(5, 3, seed=1)
    y, ladj = layer.forward_and_ladj(x, context)
    for s in range(2):
        for i in range(5):
            one = layer.forward_and_ladj(x[s, i], context[i])
            torch.testing.assert_close(one, (y[s, i], ladj[s, i]), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("field", [OwnField(), OwnPotential(), mlp()], ids=type)
def test_inference_mode_gives_the_same_numbers(field: nn.Module) -> None:
    layer, x = layer_of(field, 2), points(3, 2)
    with torch.inference_mode():
        got = layer.forward_and_ladj(x)
    assert got[1].abs().min() > 0
    torch.testing.assert_close(got, layer.forward_and_ladj(x))
