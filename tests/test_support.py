"""The last layer of a flow on constrained data."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from pyro.distributions import constraints as c
from torch.distributions import biject_to

from pyro_nf.distributions.flow import Flow
from pyro_nf.distributions.normal import DiagonalNormal
from pyro_nf.transforms.support import ToSupport

LOW, HIGH = torch.tensor([0.0, -1.0, 5.0]), torch.tensor([1.0, 1.0, 5.5])
MIXED = [
    c.positive,
    c.interval(0.1, 0.9),
    c.real,
    c.positive,
    c.less_than(-2.0),
    c.interval(-3, 7),
    c.softplus_positive,
]

# name: (support, input_dim)
CASES = {
    "real": (c.real, 3),
    "real_vector": (c.real_vector, 3),
    "positive": (c.positive, 3),
    "nonnegative": (c.nonnegative, 3),
    "greater_than": (c.greater_than(5.0), 3),
    "greater_than_eq-tensor": (c.greater_than_eq(LOW), 3),
    "less_than": (c.less_than(2.0), 3),
    "less_than-tensor": (c.less_than(LOW), 3),
    "unit_interval": (c.unit_interval, 3),
    "interval": (c.interval(-3, 7), 3),
    "interval-tensor": (c.interval(LOW, HIGH), 3),
    "half_open": (c.half_open_interval(0.1, 0.7), 3),
    "softplus_positive": (c.softplus_positive, 3),
    "independent": (c.independent(c.interval(LOW, HIGH), 1), 3),
    "independent-2": (c.independent(c.positive, 2), 3),
    "list": (MIXED, len(MIXED)),
    "list-of-one": ([c.less_than(2.0)], 1),
    "list-tensor": ([c.interval(LOW[0], HIGH[0]), c.real, c.interval(0.0, HIGH[2])], 3),
    "stack": (c.stack([c.positive, c.real, c.unit_interval], dim=-1), 3),
    "cat": (c.cat([c.interval(LOW[:2], HIGH[:2]), c.real], dim=-1, lengths=[2, 1]), 3),
    "cat-independent": (
        c.independent(c.cat([c.positive, c.real], dim=-1, lengths=[2, 1]), 1),
        3,
    ),
    "simplex": (c.simplex, 3),
    "simplex-independent": (c.independent(c.simplex, 1), 3),
    "ordered": (c.ordered_vector, 3),
    "positive_ordered": (c.positive_ordered_vector, 3),
    "corr_cholesky": (c.corr_cholesky, 6),
    "corr_matrix": (c.corr_matrix, 3),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
scalar_supports = pytest.mark.parametrize(
    "support",
    [
        c.positive,
        c.nonnegative,
        c.greater_than(5.0),
        c.greater_than(-5.0),
        c.less_than(2.0),
        c.unit_interval,
        c.interval(0.1, 0.9),
        c.interval(-3.0, 7.0),
        c.interval(1000.0, 1001.0),
        c.half_open_interval(0.1, 0.7),
        c.interval(torch.tensor([0.1]), torch.tensor([0.9])),
        c.greater_than(torch.tensor([5.0])),
    ],
    ids=str,
)


def unconstrained(layer, *batch, dtype=torch.float64):
    event = (2,) * (layer.domain.event_dim - 1)
    return torch.randn(*batch, *event, layer.input_dim, dtype=dtype)


@each_case
def test_agrees_with_biject_to_of_its_codomain(case):
    layer = ToSupport(*case).double()
    x = unconstrained(layer, 5, 4)
    y, ladj = layer.forward_and_ladj(x)
    reference = biject_to(layer.codomain)
    assert ladj.shape == (5, 4)
    torch.testing.assert_close(y, reference(x))
    torch.testing.assert_close(ladj, reference.log_abs_det_jacobian(x, y))


@each_case
def test_round_trip(case):
    layer = ToSupport(*case).double()
    x = unconstrained(layer, 5)
    y, ladj = layer.forward_and_ladj(x)
    restored, inverse_ladj = layer.inverse_and_ladj(y)
    torch.testing.assert_close(restored, x)
    torch.testing.assert_close(inverse_ladj, -ladj)


@each_case
def test_codomain_is_a_checkable_support(case):
    layer = ToSupport(*case).double()
    y = layer(unconstrained(layer, 5, 4))
    valid = layer.codomain.check(y)
    assert valid.shape == (5, 4)
    assert valid.all()
    event = y.shape[2:]
    assert layer.codomain.event_dim == len(event)


@each_case
@pytest.mark.parametrize("batch", [(), (1,), (0,), (5,), (2, 5)], ids=str)
def test_shapes_for_any_batch(case, batch):
    layer = ToSupport(*case).double()
    x = unconstrained(layer, *batch)
    y, ladj = layer.forward_and_ladj(x)
    assert layer.forward_shape(x.shape) == y.shape
    assert layer.inverse_shape(y.shape) == x.shape
    assert ladj.shape == layer.inverse_and_ladj(y)[1].shape == batch


@each_case
def test_log_determinant_is_that_of_the_jacobian(case):
    layer = ToSupport(*case).double()
    x = unconstrained(layer)
    y, ladj = layer.forward_and_ladj(x)
    jacobian = torch.autograd.functional.jacobian(layer._call, x)
    jacobian = jacobian.reshape(y.numel(), x.numel())
    if y.numel() == x.numel():
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], ladj)
    elif isinstance(layer.codomain, type(c.simplex)):
        torch.testing.assert_close(torch.linalg.slogdet(jacobian[:-1])[1], ladj)
    else:
        pytest.skip("torch defines the volume of this support by its free entries")


@each_case
def test_gradients_of_both_directions_twice(case):
    layer = ToSupport(*case).double()
    x = unconstrained(layer).requires_grad_()
    assert torch.autograd.gradcheck(layer.forward_and_ladj, x)
    assert torch.autograd.gradgradcheck(layer.forward_and_ladj, x)
    y = layer._call(x).detach()
    if layer.codomain.event_dim == 1 and not isinstance(layer.codomain, type(c.simplex)):
        assert torch.autograd.gradcheck(layer.inverse_and_ladj, y.requires_grad_())


@each_case
def test_dtype_and_device_follow(case):
    support, input_dim = case
    for dtype in (torch.float32, torch.float64):
        layer = ToSupport(support, input_dim).to(dtype)
        y, ladj = layer.forward_and_ladj(unconstrained(layer, 5, dtype=dtype))
        assert y.dtype == ladj.dtype == dtype
        assert layer.inverse_and_ladj(y)[0].dtype == dtype
    if type(support) in (type(c.corr_cholesky), type(c.corr_matrix)):
        return  # torch finds the lower triangle by nonzero(), which the meta device lacks
    layer = ToSupport(support, input_dim).to("meta")
    y, ladj = layer.forward_and_ladj(unconstrained(layer, 5).to("meta"))
    assert y.is_meta
    assert layer.inverse_and_ladj(y)[0].is_meta


@each_case
def test_maps_under_vmap(case):
    layer = ToSupport(*case).double()
    x = unconstrained(layer, 4)
    torch.testing.assert_close(
        torch.vmap(layer.forward_and_ladj)(x), layer.forward_and_ladj(x), check_stride=False
    )


@each_case
def test_survives_copy_pickle_and_state_dict(case):
    support, input_dim = case
    layer = ToSupport(support, input_dim)
    x = unconstrained(layer, 3, dtype=torch.float32)
    expected = layer._call(x)
    fresh = ToSupport(support, input_dim)
    fresh.load_state_dict(layer.state_dict())
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh):
        assert torch.equal(twin._call(x), expected)


@scalar_supports
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_of_any_size_stay_within_the_support_and_invert_finitely(support, dtype):
    layer = ToSupport(support, 1).to(dtype)
    sizes = torch.tensor([0.0, 5, 12, 17, 30, 40, 90, 120, 700, 1000], dtype=dtype)
    x = torch.cat([-sizes, sizes]).unsqueeze(-1).requires_grad_()
    y, ladj = layer.forward_and_ladj(x)
    assert layer.codomain.check(y).all()
    assert torch.isfinite(y).all()
    assert torch.isfinite(ladj).all()
    restored, inverse_ladj = layer.inverse_and_ladj(y)
    assert torch.isfinite(restored).all()
    assert torch.isfinite(inverse_ladj).all()
    total = y.clamp(-1e10, 1e10).sum() + ladj.sum() + restored.sum() + inverse_ladj.sum()
    assert torch.isfinite(torch.autograd.grad(total, x)[0]).all()
    moderate = x.abs().squeeze(-1) <= 5
    tolerance = 1e-4 if y.abs().max() < 500 or dtype == torch.float64 else 1.0
    if not (dtype == torch.float32 and repr(support).find("1000") > 0):
        torch.testing.assert_close(restored[moderate], x[moderate], rtol=0, atol=tolerance)


@scalar_supports
def test_data_on_a_bound_invert_finitely(support):
    layer = ToSupport(support, 1)
    names = ("lower_bound", "upper_bound")
    bounds = [getattr(support, name) for name in names if hasattr(support, name)]
    y = torch.stack([torch.as_tensor(bound).reshape(1) for bound in bounds])
    x, ladj = layer.inverse_and_ladj(y)
    assert torch.isfinite(x).all()
    assert torch.isfinite(ladj).all()


def test_a_composition_with_zeros_inverts_finitely():
    for support in (c.simplex, c.independent(c.simplex, 1)):
        layer = ToSupport(support, 2)
        y = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
        x, ladj = layer.inverse_and_ladj(y)
        assert torch.isfinite(x).all()
        assert torch.isfinite(ladj).all()


def test_bounds_of_a_list_round_in_each_dtype_for_themselves():
    layer = ToSupport([c.interval(0.1, 0.9), c.interval(0.3, 0.7)])
    layer.double()
    lower = layer.codomain.base_constraint.lower_bound
    assert lower.tolist() == [0.1, 0.3]
    assert layer.float().double().codomain.base_constraint.lower_bound.tolist() == [0.1, 0.3]
    assert list(layer.state_dict()) == []


def test_tensor_bounds_are_buffers_that_follow():
    layer = ToSupport(c.interval(LOW, HIGH), 3)
    assert len(layer.state_dict()) == 2
    assert layer.double().codomain.base_constraint.lower_bound.dtype == torch.float64
    other = ToSupport(c.interval(LOW - 1, HIGH + 1), 3)
    other.load_state_dict({k: v.float() for k, v in layer.state_dict().items()}, assign=True)
    assert torch.equal(other.codomain.base_constraint.upper_bound, HIGH)
    assert torch.equal(other(torch.zeros(3)), (LOW + HIGH) / 2)


def test_tensors_inside_of_a_registered_constraint_follow_too():
    class Shifted(c.Constraint):
        event_dim = 1

        def __init__(self, shift):
            self.shift = shift

        def check(self, value):
            return torch.ones(value.shape[:-1], dtype=torch.bool)

    class Shift(torch.distributions.Transform):
        domain = codomain = c.real_vector
        bijective = True

        def __init__(self, shift):
            super().__init__()
            self.shift = shift

        def _call(self, x):
            return x + self.shift

        def _inverse(self, y):
            return y - self.shift

        def log_abs_det_jacobian(self, x, y):
            return x.new_zeros(x.shape[:-1])

    biject_to.register(Shifted, lambda support: Shift(support.shift))
    try:
        layer = ToSupport(Shifted(LOW), 3)
        assert layer.double().codomain.shift.dtype == torch.float64
        assert torch.equal(layer(torch.zeros(3, dtype=torch.float64)), LOW.double())
    finally:
        del biject_to._registry[Shifted]


def test_equal_kinds_are_mapped_together():
    layer = ToSupport([c.positive, c.interval(0.0, 1.0), c.real, c.interval(0.0, 3.0)] * 25)
    assert len(layer.map.groups) == 3
    assert len(ToSupport([c.interval(0.0, i + 1.0) for i in range(50)]).map.groups) == 1


def test_support_of_a_flow_makes_the_same_layer_again():
    layer = ToSupport(MIXED)
    x = torch.randn(5, len(MIXED))
    torch.testing.assert_close(ToSupport(layer.codomain)(x), layer(x))


def test_sign_of_one_dimension():
    assert ToSupport(c.less_than(2.0), 1).sign == -1
    assert ToSupport([c.unit_interval]).sign == 1
    flow = Flow(DiagonalNormal(1), [], support=c.less_than(2.0)).double()
    y = torch.tensor([[1.0], [1.9]], dtype=torch.float64)
    expected = torch.distributions.Normal(0.0, 1.0).cdf(-(2.0 - y).log()).squeeze(-1)
    torch.testing.assert_close(flow().cdf(y), expected.double())
    torch.testing.assert_close(flow().icdf(flow().cdf(y)), y)
    with pytest.raises(NotImplementedError, match="no sign"):
        _ = ToSupport([c.less_than(2.0), c.positive]).sign


def test_flow_density_integrates_to_one_on_its_support():
    flow = Flow(DiagonalNormal(2), [], support=[c.interval(-1.0, 2.0), c.less_than(0.0)]).double()
    first = torch.linspace(-1, 2, 401, dtype=torch.float64)
    second = -torch.logspace(-3, 3, 801, dtype=torch.float64).flip(0)
    grid = torch.stack(torch.meshgrid(first, second, indexing="ij"), -1)
    density = flow().log_prob(grid).exp()
    mass = torch.trapezoid(torch.trapezoid(density, second, dim=1), first)
    assert mass == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("support", "input_dim", "error", "message"),
    [
        (c.sphere, 3, ValueError, "Sphere, onto which no bijection"),
        (c.lower_cholesky, 3, ValueError, "LowerCholesky.*corr_cholesky"),
        (c.positive_definite, 3, ValueError, "PositiveDefinite.*corr_cholesky"),
        (c.boolean, 3, ValueError, "Boolean.*dequantise"),
        (c.nonnegative_integer, 3, ValueError, "dequantise"),
        ([c.real, c.boolean], 2, ValueError, "Boolean.*dequantise"),
        (c.dependent, 3, ValueError, "Dependent"),
        (c.interval(1.0, 1.0), 3, ValueError, "lower < upper"),
        (c.interval(HIGH, LOW), 3, ValueError, "lower < upper"),
        (c.interval(0.0, math.inf), 3, ValueError, "Leave the bound out"),
        (c.greater_than(math.nan), 3, ValueError, "Leave the bound out"),
        (c.interval(LOW, HIGH), 4, ValueError, r"bound of shape \(3,\)"),
        ([c.interval(LOW, HIGH), c.real], 2, ValueError, "bounds are those of several"),
        ([c.positive], 2, ValueError, r"input_dim=2\) got 1 constraints"),
        ([c.simplex, c.real], 2, ValueError, "several at once"),
        ([], None, ValueError, "no constraints"),
        (c.stack([c.positive, c.real]), 2, ValueError, "dim=-1"),
        (c.cat([c.simplex, c.real], dim=-1), 2, ValueError, "several at once"),
        (c.corr_cholesky, 4, ValueError, "1, 3, 6, 10"),
        (c.positive, 0, ValueError, "input_dim=0"),
        ("positive", 3, TypeError, "type str"),
        (c.interval, 3, TypeError, "Pass a constraint"),
        ([c.positive, 3.0], 2, TypeError, "for dimension 1"),
    ],
    ids=str,
)
def test_what_is_no_support_is_refused_by_name(support, input_dim, error, message):
    with pytest.raises(error, match=message):
        ToSupport(support, input_dim)


def test_wrong_shapes_are_refused():
    layer = ToSupport(c.simplex, 2)
    with pytest.raises(ValueError, match=r"expected shape \(\*batch, 2\)"):
        layer(torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"expected shape \(\*batch, 3\)"):
        layer.inv(torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"expected shape \(\*batch, 3, 3\)"):
        ToSupport(c.corr_cholesky, 3).inv(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="without context"):
        layer.forward_and_ladj(torch.zeros(2), torch.zeros(1))
