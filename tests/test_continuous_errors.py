"""Continuous layers that cannot be built or solved: each error says what, where and what to do."""

from __future__ import annotations

import math
import re
import warnings

import pytest
import torch
from own_fields import Formula, OwnField, OwnPotential, layer_of, mlp, points
from torch import Tensor, nn

from pyro_nf import flows, infer
from pyro_nf.bijections import ConvergenceError
from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.nn import FieldConv, FieldMLP
from pyro_nf.transforms import Continuous, IntegrationError
from pyro_nf.transforms._continuous.norms import adjoint_error_norm
from pyro_nf.transforms._continuous.solver import ADAPTIVE, ONE_STEP

torch.set_num_threads(1)

BOTH = pytest.mark.parametrize("direction", ["forward", "inverse"])
WHERE = r"Continuous stopped at t=(\S+?),? .*last step was \S+, the largest derivative there is"


def run(layer: Continuous, direction: str, x: Tensor) -> tuple[Tensor, Tensor]:
    return getattr(layer, f"{direction}_and_ladj")(x)


def formula(function, direction: str = "forward", **options: object) -> Continuous:
    """A layer whose solution in either direction is that of dz/ds = f(s, z)."""
    end = options.get("end_time", 1.0)
    towards = function if direction == "forward" else lambda a, t, z: -function(a, end - t, z)
    return Continuous(Formula(towards), 2, **options)


def stopped_at(error: Exception) -> float:
    found = re.search(WHERE, str(error))
    assert found, str(error)
    return float(found[1])


# ------------------------------------------------------------------------------ solves that fail


@torch.no_grad()
@pytest.mark.parametrize("solver", ADAPTIVE)
@BOTH
def test_a_field_that_explodes(direction: str, solver: str) -> None:
    """The solution 1 / (1/z - s) of dz/ds = z² ends at s = 1/z."""
    options = {"solver": solver, "end_time": 2.0, "max_steps": 300, "rtol": 1e-3, "atol": 1e-3}
    layer = formula(lambda a, t, z: a * z**2, direction, **options)
    with pytest.raises(IntegrationError, match="Regularise.*loosen.*fixed steps.*rate") as caught:
        run(layer, direction, torch.full((3, 2), 2.0).double())
    end = 0.5 if direction == "forward" else 1.5
    assert stopped_at(caught.value) == pytest.approx(end, abs=0.05)
    assert isinstance(caught.value, ConvergenceError)


@pytest.mark.parametrize("solver", ONE_STEP)
@BOTH
def test_a_field_that_explodes_under_fixed_steps(direction: str, solver: str) -> None:
    layer = formula(lambda a, t, z: a * z**4, direction, solver=solver, steps=20)
    with pytest.raises(IntegrationError, match=f"not finite from solver='{solver}' with steps=20"):
        run(layer, direction, torch.full((3, 2), 9.0).double())


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
def test_too_many_steps(gradient: str) -> None:
    layer = formula(lambda a, t, z: torch.sin(1e4 * a * z), max_steps=15, gradient=gradient)
    with pytest.raises(IntegrationError, match=r"after max_steps=15 steps.*Or raise max_steps"):
        layer(points(3, 2))


@BOTH
def test_a_field_that_is_not_finite_on_the_way(direction: str) -> None:
    def field(a: Tensor, t: Tensor, z: Tensor) -> Tensor:
        return a * z * torch.where(t > 0.75, math.nan, 1.0)

    with pytest.raises(IntegrationError, match=r"stopped at t=\S+: the field or.*not finite") as e:
        run(formula(field, direction), direction, points(3, 2))
    t = float(re.search(r"t=(\S+):", str(e.value))[1])
    assert t <= 0.75 if direction == "forward" else t >= 0.25
    with pytest.raises(IntegrationError, match="not finite on the way"):
        run(formula(field, direction, solver="rk4", steps=4), direction, points(3, 2))


@pytest.mark.parametrize("options", [{}, {"solver": "euler", "steps": 2}], ids=["dopri5", "euler"])
@BOTH
def test_the_first_evaluation_is_looked_at(direction: str, options: dict) -> None:
    layer = formula(lambda a, t, z: a * z.log(), **options)
    with pytest.raises(IntegrationError, match=r"derivative that is not finite.*at t=[01]\b"):
        run(layer, direction, -points(3, 2).abs())
    layer = layer_of(mlp(), **options)
    for value in (math.nan, math.inf):
        x = points(3, 2)
        x[1, 0] = value
        with pytest.raises(IntegrationError, match="values that are not finite.*those rows"):
            run(layer, direction, x)


@BOTH
def test_an_adjoint_that_cannot_be_solved(direction: str) -> None:
    """What contracts forward explodes backward: the adjoint equation alone is unstable."""
    options = {"gradient": "adjoint", "max_steps": 60, "end_time": 2.0}
    layer = formula(lambda a, t, z: -30 * a * z, direction, **options)
    y, ladj = run(layer, direction, points(3, 2))
    with pytest.raises(IntegrationError, match='backward solve.*gradient="checkpoint"') as caught:
        (y.sum() + ladj.sum()).backward()
    assert 0 <= stopped_at(caught.value) <= 2
    if direction == "forward":  # it came back to early times
        assert stopped_at(caught.value) < 1.9


@BOTH
def test_an_adjoint_that_meets_a_field_that_is_not_finite(direction: str) -> None:
    broken = []

    def field(a: Tensor, t: Tensor, z: Tensor) -> Tensor:
        bad = bool(broken) and float(t.detach()) * (2 - float(t.detach())) > 0.5
        return a * z * (math.nan if bad else 1.0)

    layer = formula(field, direction, gradient="adjoint", end_time=2.0)
    value = run(layer, direction, points(3, 2))[0].sum()
    broken.append(True)
    with pytest.raises(IntegrationError, match="not finite on the step from there"):
        value.backward()


@pytest.mark.parametrize("kind", ["seminorm", "full"])
@pytest.mark.parametrize("part", [1, 2, 3])
def test_no_part_of_the_adjoints_error_hides_a_nan(kind: str, part: int) -> None:
    errors = [torch.zeros(4) for _ in range(4)]  # time's gradient, state, its gradient, a value's
    errors[part][0] = math.nan
    size = adjoint_error_norm(kind, torch.linalg.vector_norm)(tuple(errors))
    assert size.isnan() == (part < 3 or kind == "full")


def test_a_loss_without_a_finite_gradient() -> None:
    layer = layer_of(mlp(), gradient="adjoint")
    with pytest.raises(IntegrationError, match="gradient that is not finite from the loss"):
        (layer(points(3, 2)).sum() * math.inf).backward()


def test_a_users_own_error_stays_what_it_is() -> None:
    def field(a: Tensor, t: Tensor, z: Tensor) -> Tensor:
        assert t < 0.5, "too late"
        return a * z

    with pytest.raises(AssertionError, match="too late"):
        formula(field)(points(3, 2))


def test_a_fit_skips_a_step_that_cannot_be_solved() -> None:
    class Fragile(Flow):
        calls = 0

        def forward(self, context: Tensor | None = None):
            type(self).calls += self.training
            self.transform.field.fails = self.training and self.calls in (3, 4)
            return super().forward(context)

    class Sometimes(OwnField):
        fails = False

        def forward(self, t: Tensor, z: Tensor, *context: Tensor) -> Tensor:
            return super().forward(t, z) * (1e9 * z.square() if self.fails else 1)

    flow = Fragile(DiagonalNormal(2), Continuous(Sometimes(), 2, max_steps=50))
    with pytest.warns(UserWarning, match="skipped step"):
        result = infer.fit_density(flow, points(64, 2).float() + 2, max_steps=12, progress=False)
    assert result.steps == 12
    assert sum(math.isfinite(loss) for loss in result.train_losses) == 10
    assert result.train_losses[-1] < result.train_losses[0]


# --------------------------------------------------------------------------- fields and arguments


def field_of(function) -> Continuous:
    return layer_of(Formula(function), 2)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda a, t, z: a * z[:, :1], r"returned shape \(3, 1\) for z of shape \(3, 2\)"),
        (lambda a, t, z: (a * z, z), "returned tuple for z"),
        (lambda a, t, z: None, "returned NoneType for z"),
        (lambda a, t, z: torch.tanh(a * z).detach(), "divergence would be taken for 0"),
    ],
    ids=["shape", "tuple", "none", "detached"],
)
def test_fields_that_return_something_else(function, match: str, trace: str) -> None:
    with pytest.raises(ValueError, match=match):
        layer_of(Formula(function), 2, trace=trace)(points(3, 2))


def test_a_field_free_of_the_state_has_no_divergence() -> None:
    ladj = field_of(lambda a, t, z: (a * t).expand_as(z)).forward_and_ladj(points(3, 2))[1]
    assert not ladj.any()


BAD_FIELDS = [
    (lambda: Continuous(FieldMLP), TypeError, "Pass an nn.Module"),
    (lambda: Continuous(torch.sin, 2), TypeError, "Pass an nn.Module"),
    (lambda: Continuous(nn.Sequential(nn.Dropout()), 2), ValueError, "Dropout.*another velocity"),
    (lambda: Continuous(nn.BatchNorm1d(2), 2), ValueError, "BatchNorm1d.*another velocity"),
    (lambda: Continuous(nn.Linear(2, 2), 2), TypeError, r"as field\(t, z\), which Linear.forward"),
    (lambda: Continuous(OwnPotential(), 2, context_dim=1), TypeError, r"field\(t, z, context\)"),
    (lambda: Continuous(OwnField()), ValueError, "OwnField without input_dim"),
    (lambda: Continuous(OwnField(), ()), TypeError, r"input_dim=\(\)"),
    (lambda: Continuous(OwnField(), 2.0), TypeError, "input_dim=2.0"),
    (lambda: Continuous(OwnField(), (2, 0)), ValueError, "input_dim=0"),
    (lambda: Continuous(FieldMLP(2), 3), ValueError, "input_dim=3 for a FieldMLP"),
    (lambda: Continuous(FieldMLP(2), context_dim=1), ValueError, "context_dim=1 for a FieldMLP"),
]


@pytest.mark.parametrize(("build", "kind", "match"), BAD_FIELDS)
def test_fields_that_cannot_be_integrated(build, kind: type, match: str) -> None:
    with pytest.raises(kind, match=match):
        build()


BAD_OPTIONS = [
    ({"solver": "rk45"}, ValueError, "solver='rk45'. Pass one of 'dopri5'"),
    ({"solver": "rk4"}, ValueError, "solver='rk4' without steps. Pass steps=8"),
    ({"steps": 8}, ValueError, "steps=8 for solver='dopri5', which chooses its own"),
    ({"solver": "rk4", "steps": 0}, ValueError, "steps=0"),
    ({"solver": "rk4", "steps": True}, TypeError, "steps=True"),
    ({"eval_solver": "euler"}, ValueError, "eval_solver='euler' without eval_steps"),
    ({"eval_steps": 4}, ValueError, "eval_steps=4 for eval_solver='dopri5'"),
    ({"rtol": 0}, ValueError, "rtol=0"),
    ({"atol": "small"}, TypeError, "atol='small'"),
    ({"eval_rtol": -1.0}, ValueError, "eval_rtol=-1.0"),
    ({"norm": "l2"}, ValueError, "norm='l2'. Pass one of 'rms'"),
    ({"max_steps": 0}, ValueError, "max_steps=0"),
    ({"gradient": "exact"}, ValueError, "gradient='exact'"),
    ({"gradient": "checkpoint", "solver": "dopri8"}, ValueError, "cannot replay"),
    ({"gradient": "checkpoint", "eval_solver": "bosh3"}, ValueError, "cannot replay"),
    ({"adjoint_norm": "semi"}, ValueError, "adjoint_norm='semi'"),
    ({"trace": "hutch"}, ValueError, "trace='hutch'"),
    ({"probe": "normal"}, ValueError, "probe='normal'"),
    ({"end_time": 0.0}, ValueError, "end_time=0.0"),
    ({"steer": 1.0}, ValueError, "steer=1.0 for end_time=1.0"),
    ({"steer": "some"}, TypeError, "steer='some'"),
]


@pytest.mark.parametrize(("options", "kind", "match"), BAD_OPTIONS, ids=str)
def test_options_that_do_not_exist_or_fit(options: dict, kind: type, match: str) -> None:
    with pytest.raises(kind, match=f"Continuous got .*{match}"):
        Continuous(FieldMLP(2), **options)
    with pytest.raises(kind, match=match):
        flows.cnf(2, **options)


@pytest.mark.parametrize("name", ["trace", "eval_trace"])
def test_fields_without_a_closed_divergence(name: str) -> None:
    for field, size in ((OwnField(), 2), (FieldMLP(2, (4, 4, 4)), None)):
        with pytest.raises(ValueError, match=f'{name}="closed".*no closed form'):
            Continuous(field, size, **{name: "closed"})


def test_contexts_that_are_missing_or_too_many() -> None:
    x, context = points(3, 2), points(3, 4)
    needs, plain = layer_of(OwnField(2, 4), 2, context_dim=4), layer_of(OwnField(), 2)
    with pytest.raises(ValueError, match="context_dim=4 and got no context"):
        needs(x)
    with pytest.raises(ValueError, match=r"without context and got one of shape \(3, 4\)"):
        plain.forward_and_ladj(x, context)
    with pytest.raises(ValueError, match="do not broadcast"):
        needs.forward_and_ladj(x, context[:2])
    forgotten = Continuous(FieldConv(2, context_dim=4), (2, 3, 3))
    with pytest.raises(ValueError, match="context_dim=4 and got no context"):
        forgotten(torch.zeros(3, 2, 3, 3))


def test_values_that_do_not_fit() -> None:
    layer = layer_of(mlp())
    with pytest.raises(ValueError, match=r"x of shape \(3, 4\); expected shape \(\*batch, 2\)"):
        layer(points(3, 4))
    with pytest.raises(TypeError, match=r"dtype torch.float32.*x.to\(torch.float64\)"):
        layer(points(3, 2).float())
    images = layer_of(FieldConv(2), (2, 4, 4))
    with pytest.raises(ValueError, match=r"y of shape \(2, 4\); expected.*2, 4, 4\)"):
        images.inv(points(2, 4))


def test_tolerances_below_rounding_warn() -> None:
    layer = Continuous(FieldMLP(2), rtol=1e-9)
    with pytest.warns(UserWarning, match="rtol=1e-09.*torch.float32 resolves 1e-07.*float64"):
        layer(torch.zeros(3, 2))
    layer.double()(torch.zeros(3, 2).double())
    Continuous(FieldMLP(2), solver="rk4", steps=2, rtol=1e-9)(torch.zeros(3, 2))


def test_transforms_of_functions_are_refused() -> None:
    layer, x = layer_of(mlp()), points(3, 2)
    attempts = [
        lambda: torch.vmap(layer)(x),
        lambda: torch.func.jacrev(layer)(x),
        lambda: torch.func.jvp(layer, (x,), (x,)),
        lambda: torch.jit.trace(lambda v: layer(v), (x,)),
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.trace.*is deprecated")
        for attempt in attempts:
            with pytest.raises(RuntimeError, match="do not pass through torchdiffeq's solvers"):
                attempt()
