"""The numerical root that every bijection without a closed form shares."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from case import perturb
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from pyro_nf import bijections as B
from pyro_nf.bijections import _root
from pyro_nf.bijections._elements import flat_elements
from pyro_nf.bijections._root import NumericallyInverted, Root, implicit, invert, solve
from pyro_nf.transforms import ConvexPotential
from pyro_nf.transforms._convex import search
from pyro_nf.transforms._residual import fixed_point

torch.set_num_threads(1)

Function = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
NONE = torch.zeros(0, 1)


def _slope(function: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]) -> Function:
    return lambda x, params: (function(x), slope(x).log())


def _two_steps(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """Flat but for two steps and a faint line: Newton's step from the flat part is useless."""
    del params
    steep = torch.sigmoid(50 * (x - 3)), torch.sigmoid(50 * (x + 3))
    y = 1e-6 * x + 5 * (steep[0] + steep[1])
    return y, (1e-6 + 250 * sum(s * (1 - s) for s in steep)).log()


HARD: dict[str, Function] = {
    "line": _slope(lambda x: 0.01 * x + 3, lambda x: torch.full_like(x, 0.01)),
    "cube": _slope(lambda x: x**3, lambda x: 3 * x.square()),
    "fifth root": _slope(lambda x: x.sign() * x.abs() ** 0.2, lambda x: 0.2 * x.abs() ** -0.8),
    "sinh": _slope(torch.sinh, torch.cosh),
    "asinh": _slope(torch.asinh, lambda x: (1 + x.square()).rsqrt()),
    "exponential and line": _slope(lambda x: x + x.exp(), lambda x: 1 + x.exp()),
    "kink": _slope(
        lambda x: torch.where(x > 1, 1 + 1e4 * (x - 1), x),
        lambda x: torch.where(x > 1, 1e4, 1.0).to(x.dtype),
    ),
    "gentle kink": _slope(
        lambda x: torch.where(x > 0, 1e-4 * x, x),
        lambda x: torch.where(x > 0, 1e-4, 1.0).to(x.dtype),
    ),
    "two steps": _two_steps,
    "wave": _slope(lambda x: x + 0.999 * x.sin(), lambda x: 1 + 0.999 * x.cos()),
    "steep": _slope(lambda x: 1e8 * x, lambda x: torch.full_like(x, 1e8)),
}
each = pytest.mark.parametrize("name", HARD)


def check_root(name: str, x: Tensor, y: Tensor) -> None:
    """A root is right when y lies between the values just below and just above x.

    Just: 16 machine epsilons of x, or what an error of some epsilons in f means there.
    """
    function, eps = HARD[name], torch.finfo(y.dtype).eps
    step = 16 * eps * (1 + x.abs())
    noise = 16 * eps * (1e-3 + y.abs())
    assert x.isfinite().all()
    assert (function(x - step, NONE)[0] - noise <= y).all()
    assert (function(x + step, NONE)[0] + noise >= y).all()


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_finds_the_root_of_hard_functions(name: str, dtype: torch.dtype) -> None:
    size = torch.logspace(-8, 4, 60, dtype=dtype)
    y = torch.cat([-size, torch.zeros(1, dtype=dtype), size])
    if name == "exponential and line" or name.endswith("kink") or name == "two steps":
        y = y.clamp(-1e4, 1e4)
    if name == "asinh":
        y = y.clamp(-80, 80)
    if name == "fifth root":
        y = y.clamp(-1e3, 1e3) if dtype == torch.float64 else y.clamp(-1e2, 1e2)
    x = solve(HARD[name], y, NONE.to(dtype).expand(0, len(y)), Root(), name)
    check_root(name, x, y)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(set(HARD) - {"asinh", "fifth root"})),
    values=st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=5),
)
def test_finds_the_root_of_any_value(name: str, values: list[float]) -> None:
    y = torch.tensor(values, dtype=torch.float64)
    check_root(name, solve(HARD[name], y, NONE.expand(0, len(y)), Root(), name), y)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(y=st.floats(-1e150, 1e150))  # beyond it torch's own asinh overflows
def test_reaches_any_magnitude(y: float) -> None:
    """From an x of 1e150 down to its logarithm, and from that up to exp of it."""
    values = torch.tensor([y], dtype=torch.float64)
    x = solve(HARD["sinh"], values, NONE, Root(), "sinh")
    torch.testing.assert_close(x, values.asinh(), rtol=1e-13, atol=1e-15)
    logs = values.asinh()
    back = solve(HARD["asinh"], logs, NONE, Root(), "asinh")
    torch.testing.assert_close(back.asinh(), logs, rtol=1e-13, atol=1e-15)


@dataclass(frozen=True)
class _Cubic(NumericallyInverted):
    """y = a + exp(b) x + c² x³: all derivatives known."""

    root: Root = Root()

    @property
    def param_count(self) -> int:
        return 3

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        x, (a, b, c), _ = flat_elements(self, x, params)
        y = a + b.exp() * x + c.square() * x**3
        return y, (b.exp() + 3 * (c * x).square()).log()


def drawn(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(n).requires_grad_(), draw(3, n).requires_grad_()


def test_gradients_are_those_of_the_implicit_function() -> None:
    y, params = drawn(6)
    assert gradcheck(_Cubic().inverse, (y, params))
    assert gradgradcheck(_Cubic().inverse, (y, params))


def test_third_derivative() -> None:
    y, params = (t.detach()[..., 0] for t in drawn(1))
    second = torch.func.grad(torch.func.grad(lambda v: _Cubic().inverse(v, params)[0]))
    third = torch.func.grad(second)(y)
    step = 1e-5
    difference = (second(y + step) - second(y - step)) / (2 * step)
    torch.testing.assert_close(third, difference, rtol=1e-6, atol=1e-7)


def test_the_value_is_the_same_with_and_without_a_graph() -> None:
    y, params = drawn(50)
    with torch.no_grad():
        quiet = _Cubic().inverse(y, params)
    loud = _Cubic().inverse(y, params)
    mapped = torch.vmap(_Cubic().inverse, in_dims=(0, 1))(y.detach(), params.detach())
    for a, b, c in zip(quiet, loud, mapped, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        torch.testing.assert_close(a, c, rtol=1e-13, atol=1e-13)


def test_a_known_value_needs_no_search() -> None:
    y, params = drawn(8)
    x, ladj = _Cubic().inverse(y, params)
    again = _Cubic(root=Root(iterations=1)).inverse_at(x.detach(), y, params)
    leaves = (y, params)
    for got, want in zip(again, (x, ladj), strict=True):
        torch.testing.assert_close(got, want)
        grads = [
            torch.autograd.grad(v.sin().sum(), leaves, retain_graph=True) for v in (got, want)
        ]
        torch.testing.assert_close(*grads)


def test_a_plateau_gives_finite_gradients() -> None:
    """Where the slope underflows its reciprocal would be infinite, times a residual of 0."""
    f = B.DeepSigmoidal(units=2)
    params = torch.tensor([[200.0], [200.0], [-900.0], [900.0], [0.0], [0.0]], requires_grad=True)
    y = torch.zeros(1, requires_grad=True)
    x, ladj = f.inverse(y, params)
    assert x.isfinite().all()
    assert ladj.isfinite().all()
    assert torch.autograd.grad(x.sum(), y)[0] > 1e15


def test_no_number_gives_no_number_and_leaves_the_others_alone() -> None:
    y, params = (t.detach().clone() for t in drawn(5))
    want = _Cubic().inverse(y, params)[0]
    y[0], y[1], params[2, 2] = math.nan, math.inf, math.nan
    for run in (_Cubic().inverse, torch.vmap(_Cubic().inverse, in_dims=(0, 1))):
        x, ladj = run(y, params)
        assert x[:3].isnan().all()
        assert ladj[:3].isnan().all()
        torch.testing.assert_close(x[3:], want[3:])


def test_a_budget_too_small_is_an_error_with_fact_and_remedy() -> None:
    y = torch.tensor([1e5, 0.0, -1e5], dtype=torch.float64)
    params = torch.ones(3, 3, dtype=torch.float64)
    with pytest.raises(
        B.ConvergenceError,
        match=r"_Cubic found no inverse for \d of 3 values within 2 evaluations: the largest "
        r"residual is [\d.e+]+\. Pass root=Root\(iterations=...\)",
    ):
        _Cubic(root=Root(iterations=2)).inverse(y, params)
    mapped = torch.vmap(_Cubic(root=Root(iterations=2)).inverse, in_dims=(0, 1))
    assert mapped(y, params)[0].isnan().any()


def test_where_the_host_cannot_read_what_is_not_found_is_no_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on an accelerator, whose queue a failed assertion would end for good."""
    for module in (_root, fixed_point, search):
        monkeypatch.setattr(module, "host_can_read", lambda tensor: False)
    budget = Root(iterations=2)
    y = torch.tensor([[0.0, 50.0], [0.0, 50.0]], dtype=torch.float64)
    found = [
        solve(HARD["cube"], y[0], NONE.double(), budget, "cube"),
        fixed_point.solve(lambda u: 0.9 * u.sin(), y, budget, "sine")[0],
    ]
    for x in found:
        assert x.isnan().tolist() == [False, True]
    layer = ConvexPotential(2, fast="sample", root=budget).double()
    perturb(layer, 1.0)
    assert layer.inverse_and_ladj(10 * y)[0].isnan().any()


def test_a_value_out_of_range_is_an_error() -> None:
    with pytest.raises(B.ConvergenceError, match="tanh found no inverse for 1 of 2 values"):
        solve(
            _slope(torch.tanh, lambda x: 1 - x.tanh().square()),
            torch.tensor([0.5, 1.5], dtype=torch.float64),
            NONE.expand(0, 2),
            Root(),
            "tanh",
        )


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-10])
def test_the_tolerance_bounds_the_error_and_spares_evaluations(tolerance: float) -> None:
    y = torch.linspace(-20, 20, 101, dtype=torch.float64)
    calls = []

    def counted(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(x))
        return HARD["wave"](x, params)

    params = NONE.expand(0, 101)
    exact = solve(counted, y, params, Root(), "wave")
    full = sum(calls)
    calls.clear()
    x = solve(counted, y, params, Root(tolerance=tolerance), "wave")
    assert sum(calls) <= full
    assert (HARD["wave"](x, params)[0] - y).abs().max() <= 4 * tolerance * (1 + y.abs().max())
    assert exact.isfinite().all()


@each
def test_a_search_takes_a_few_evaluations(name: str) -> None:
    """Ordinary values of functions hard and easy, far below the budget."""
    calls = []

    def counted(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(x))
        return HARD[name](x, params)

    y = torch.linspace(-6, 6, 200, dtype=torch.float64)
    solve(counted, y, NONE.expand(0, 200), Root(), name)
    assert len(calls) <= 64
    assert sum(calls) <= 40 * 200


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="Root got iterations=0. Pass a positive integer"):
        Root(iterations=0)
    with pytest.raises(TypeError, match="iterations=1.5"):
        Root(iterations=1.5)
    with pytest.raises(ValueError, match="tolerance=-1.0. Pass a finite number above 0"):
        Root(tolerance=-1.0)


def test_empty_and_meta() -> None:
    x, ladj = _Cubic().inverse(torch.zeros(0), torch.zeros(3, 0))
    assert x.shape == ladj.shape == (0,)
    y = torch.empty(4, device="meta")
    x, ladj = _Cubic().inverse(y, torch.empty(3, 4, device="meta"))
    assert x.is_meta
    assert ladj.is_meta


def test_half_precision_is_solved_in_float32() -> None:
    y, params = (t.detach().bfloat16() for t in drawn(20))
    x, ladj = _Cubic().inverse(y, params)
    want, _ = _Cubic().inverse(y.double(), params.double())
    assert x.dtype == ladj.dtype == torch.bfloat16
    torch.testing.assert_close(x.double(), want, rtol=1e-2, atol=1e-2)


def test_without_a_graph_the_root_is_returned_as_it_is() -> None:
    y, params = (t.detach() for t in drawn(3))
    x = torch.ones(3, dtype=torch.float64)
    assert implicit(_Cubic().forward, x, y, params) is x
    assert not invert(_Cubic().forward, y, params, Root(), "cubic")[0].requires_grad
