"""Gradients of continuous layers: three ways to one result, and what has one."""

from __future__ import annotations

import pytest
import torch
from own_fields import KINDS, TIGHT, Encoded, Formula, layer_of, mlp, points
from torch import Tensor, nn

from pyro_nf.transforms import Continuous
from pyro_nf.transforms._continuous.solver import ADAPTIVE

torch.set_num_threads(1)

BOTH = pytest.mark.parametrize("direction", ["forward", "inverse"])
GRADIENTS = pytest.mark.parametrize("gradient", ["backprop", "adjoint", "checkpoint"])
CLOSE = {"rtol": 1e-7, "atol": 1e-7}

KIND = pytest.mark.parametrize("kind", KINDS)


def relative_errors(got: dict[str, Tensor], want: dict[str, Tensor]) -> list[float]:
    assert got.keys() == want.keys()
    return [float((got[name] - want[name]).norm() / want[name].norm()) for name in want]


@KIND
@BOTH
def test_three_gradients_agree(kind: str, direction: str) -> None:
    want = Encoded(kind, gradient="backprop", **CLOSE).gradients(direction)
    # The constant of a potential has no effect; all else has, the end time and the features too.
    idle = {"layer.field.net.2.bias", "features"} if kind == "module-potential" else set()
    every = {name for name, _ in Encoded(kind).named_parameters()} | {"x", "features"}
    assert want.keys() == every - idle
    replayed = Encoded(kind, gradient="checkpoint", **CLOSE).gradients(direction)
    assert max(relative_errors(replayed, want)) <= 1e-12
    for norm in ("seminorm", "full"):
        solved = Encoded(kind, gradient="adjoint", adjoint_norm=norm, **CLOSE)
        assert max(relative_errors(solved.gradients(direction), want)) <= 1e-4


@pytest.mark.parametrize("kind", ["closed", "module"])
@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun2", "heun3", "rk4"])
@BOTH
def test_replayed_steps_have_the_gradients_of_the_steps(direction, solver, kind) -> None:
    options = {"solver": solver, "steps": 6}
    want = Encoded(kind, gradient="backprop", **options).gradients(direction)
    got = Encoded(kind, gradient="checkpoint", **options).gradients(direction)
    assert max(relative_errors(got, want)) <= 1e-12


@pytest.mark.parametrize("solver", ["rk4", "explicit_adams", "dopri8", "bosh3"])
def test_the_adjoint_of_other_solvers(solver: str) -> None:
    options = CLOSE if solver in ADAPTIVE else {"steps": 30}
    want = Encoded("closed", gradient="backprop", **TIGHT).gradients("inverse")
    got = Encoded("closed", gradient="adjoint", solver=solver, **options).gradients("inverse")
    assert max(relative_errors(got, want)) <= 1e-4


@GRADIENTS
@pytest.mark.parametrize("kind", ["closed", "module"])
def test_gradients_against_differences(kind: str, gradient: str) -> None:
    module = Encoded(kind, gradient=gradient, **TIGHT)
    weight = next(module.layer.field.parameters())

    def function(x: Tensor, features: Tensor, *_: Tensor) -> Tensor:
        return module("inverse", x, features)

    leaves = points(2, 2).requires_grad_(), points(2, 3).requires_grad_()
    # gradcheck moves its inputs in place, so a parameter of the module can be among them.
    inputs = (*leaves, weight, module.layer.log_end_time, module.encoder.weight)
    assert torch.autograd.gradcheck(
        function, inputs, eps=1e-5, atol=1e-5, fast_mode=True, check_undefined_grad=False
    )


@GRADIENTS
@pytest.mark.parametrize("solver", ["dopri5", "dopri8", "rk4"])
@BOTH
def test_times_stay_between_the_ends(direction: str, solver: str, gradient: str) -> None:
    if (solver, gradient) == ("dopri8", "checkpoint"):
        return
    times: list[float] = []

    def field(a: Tensor, t: Tensor, z: Tensor) -> Tensor:
        assert not t.requires_grad
        times.append(float(t))
        return torch.sin(a * z + 3 * t)

    steps = {"steps": 5} if solver == "rk4" else CLOSE
    layer = layer_of(Formula(field), 2, solver=solver, gradient=gradient, end_time=2.0, **steps)
    ladj = getattr(layer, f"{direction}_and_ladj")(points(3, 2))[1]
    assert [min(times), max(times)] == pytest.approx([0, 2], abs=1e-12)
    times.clear()
    ladj.sum().backward()
    if gradient != "backprop":
        assert [min(times), max(times)] == pytest.approx([0, 2], abs=1e-12)


@pytest.mark.parametrize("kind", ["closed", "potential"])
@BOTH
def test_the_adjoint_at_the_default_tolerance(direction: str, kind: str) -> None:
    want = Encoded(kind, gradient="backprop", **TIGHT).gradients(direction)
    got = Encoded(kind, gradient="adjoint").gradients(direction)
    assert max(relative_errors(got, want)) <= 5e-4


def test_the_adjoints_tolerances_heed_no_scale() -> None:
    """The mean over many rows has the gradient of their sum, and not one of noise."""
    layer, x = layer_of(mlp(), gradient="adjoint"), points(500, 2)
    of_sum = torch.autograd.grad(layer.inverse_and_ladj(x)[1].sum(), layer.parameters())
    tiny = torch.autograd.grad(1e-6 * layer.inverse_and_ladj(x)[1].sum(), layer.parameters())
    for whole, part in zip(of_sum, tiny, strict=True):
        torch.testing.assert_close(1e6 * part, whole, rtol=1e-9, atol=1e-9)
    nothing = torch.autograd.grad(0 * layer(x).sum(), layer.parameters())
    assert not any(part.any() for part in nothing)


# ------------------------------------------------------------------------- what has a gradient


@GRADIENTS
@pytest.mark.parametrize("kind", ["closed", "module"])
def test_frozen_parts_get_none_and_the_others_theirs(kind: str, gradient: str) -> None:
    whole = Encoded(kind, gradient=gradient, **CLOSE)
    want = whole.gradients("inverse")
    for frozen in ("layer.field", "encoder", "layer.log_end_time"):
        part = Encoded(kind, gradient=gradient, **CLOSE)
        for name, parameter in part.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen))
        value = part("inverse", points(3, 2), points(3, 3))
        value.backward()
        for name, parameter in part.named_parameters():
            if name.startswith(frozen):
                assert parameter.grad is None
            else:
                torch.testing.assert_close(parameter.grad, want[name], rtol=1e-4, atol=1e-6)
    for parameter in whole.parameters():
        parameter.requires_grad = False
    assert not whole("inverse", points(3, 2), points(3, 3)).requires_grad


@GRADIENTS
@BOTH
def test_a_weight_used_twice_counts_twice(gradient: str, direction: str) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = self.second = nn.Linear(2, 2)

        def forward(self, t: Tensor, z: Tensor) -> Tensor:
            return torch.tanh(self.second(torch.tanh(self.first(z))))

    layer, x = layer_of(Tied(), 2, gradient=gradient, **TIGHT), points(3, 2)
    weight = layer.field.first.weight

    def value() -> Tensor:
        return getattr(layer, f"{direction}_and_ladj")(x)[1].square().sum()

    (gradient,) = torch.autograd.grad(value(), weight)
    with torch.no_grad():
        weight[0, 1] += 1e-5
        above = value()
        weight[0, 1] -= 2e-5
        slope = (above - value()) / 2e-5
    torch.testing.assert_close(gradient[0, 1], slope, rtol=1e-5, atol=1e-7)


def test_tensors_out_of_reach_are_refused_where_their_gradient_would_be_lost() -> None:
    shift = points(2).requires_grad_()
    field = Formula(lambda a, t, z: torch.tanh(a * z) + shift)
    value = layer_of(field, 2, gradient="backprop").forward_and_ladj(points(3, 2))[0].sum()
    assert torch.autograd.grad(value, shift)[0].abs().min() > 1
    for gradient in ("adjoint", "checkpoint"):
        layer = layer_of(field, 2, gradient=gradient)
        with pytest.raises(ValueError, match="neither its parameter nor its context"):
            layer(points(3, 2))
        with torch.no_grad():
            layer(points(3, 2))


@GRADIENTS
def test_a_buffer_may_carry_a_gradient(gradient: str) -> None:
    class Shifted(nn.Module):
        def __init__(self, shift: Tensor) -> None:
            super().__init__()
            self.register_buffer("shift", shift)

        def forward(self, t: Tensor, z: Tensor) -> Tensor:
            return torch.tanh(z) + self.shift

    encoder, features = nn.Linear(3, 2).double(), points(3)
    y = Continuous(Shifted(encoder(features)), 2, gradient=gradient)(points(3, 2))
    (got,) = torch.autograd.grad(y.sum(), encoder.bias)
    assert got.min() > 1


@GRADIENTS
def test_names_of_a_module_mean_nothing_to_the_solver(gradient: str) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("end_time", "probe", "context"):
                setattr(self, name, nn.Parameter(torch.full((), 0.5).double()))

        def forward(self, t: Tensor, z: Tensor) -> Tensor:
            return -z * (self.end_time + self.probe + self.context)

    layer = layer_of(Named(), 2, gradient=gradient, trace="hutchinson", **TIGHT)
    y, ladj = layer.forward_and_ladj(points(3, 2))
    torch.testing.assert_close(y, points(3, 2) * torch.tensor(-1.5).double().exp())
    slopes = torch.autograd.grad(ladj.sum(), list(layer.parameters()))
    torch.testing.assert_close(torch.stack(slopes), torch.full((3,), -6.0).double())
