"""Vector fields: their Jacobians, divergences and side rates against autograd's, their shapes."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
from case import perturb
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, jacfwd

from pyro_nf.nn import Field, FieldMLP, PotentialField
from pyro_nf.nn._smooth import SMOOTH

torch.set_num_threads(1)

TIMES = ("concatsquash", "concat", "none")
T = torch.tensor(0.3, dtype=torch.float64)


def points(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perturbed(field: nn.Module, scale: float = 1.0) -> nn.Module:
    field = field.double()
    perturb(field, scale)
    return field


def mlps() -> list:
    depths = [(), (5,), (5, 4), (5, 4, 6)]
    activations = itertools.cycle(SMOOTH)
    made = []
    for hidden_dims, time, context_dim in itertools.product(depths, TIMES, (0, 2)):
        options = {"time": time, "context_dim": context_dim, "activation": next(activations)}
        name = f"mlp{len(hidden_dims)}-{time}-{options['activation']}-{context_dim}"
        made.append(pytest.param(FieldMLP, (3, hidden_dims), options, id=name))
    return made


def potentials() -> list:
    made = []
    for layers, (dim, hidden_dim, rank), context_dim in itertools.product(
        (1, 2, 3, 4), ((3, 5, None), (1, 4, 1), (7, 2, 3)), (0, 2)
    ):
        options = {"layers": layers, "rank": rank, "context_dim": context_dim}
        name = f"potential{layers}-{dim}-{context_dim}"
        made.append(pytest.param(PotentialField, (dim, hidden_dim), options, id=name))
    return made


EVERY = pytest.mark.parametrize(("cls", "sizes", "options"), [*mlps(), *potentials()])
KINDS = {
    "mlp": lambda **options: FieldMLP(3, (6, 5), **options),
    "potential": lambda **options: PotentialField(3, 6, layers=3, **options),
}
KIND = pytest.mark.parametrize("kind", KINDS)
CONTEXT = pytest.mark.parametrize("context_dim", [0, 2])


def context_of(field: nn.Module, *batch: int, seed: int = 1) -> Tensor | None:
    return points(*batch, field.context_dim, seed=seed) if field.context_dim else None


def jacobians(field: Field, values: dict, z: Tensor) -> Tensor:
    """∂f/∂z of each column, ``(D, D, columns)``: no column depends on another."""
    return torch.autograd.functional.jacobian(lambda v: field.velocity(values, T, v).sum(1), z)


class Rates(nn.Module):
    """Velocity and divergence on rows, as a module for ``functional_call``."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Tensor, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        columns, values, _ = self.field.columns(z, context)
        return self.field.with_divergence(values, t, columns)


# ------------------------------------------------------------------------- what each must be


@EVERY
def test_products_and_divergence_are_autograds(cls, sizes, options) -> None:
    field, dim = perturbed(cls(*sizes, **options)), sizes[0]
    z, own = points(dim, 4), points(dim, 6, 4, seed=2)
    values = field.read(context_of(field, 4), z.shape[1:])
    want = jacobians(field, values, z)
    close = {"rtol": 1e-12, "atol": 1e-12 * float(1 + want.abs().max())}

    for directions in (own, own[..., :1], torch.eye(dim, dtype=z.dtype).unsqueeze(2)):
        velocity, products = field.with_products(values, T, z, directions)
        torch.testing.assert_close(velocity, field.velocity(values, T, z))
        by_column = torch.einsum("dec,ekc->dkc", want, directions.expand(dim, -1, 4))
        torch.testing.assert_close(products, by_column, **close)

    if field.closed_divergence:
        velocity, divergence = field.with_divergence(values, T, z)
        torch.testing.assert_close(velocity, field.velocity(values, T, z))
        trace = want.diagonal().sum(1)
        torch.testing.assert_close(divergence, trace, **close)


@EVERY
def test_rows(cls, sizes, options) -> None:
    field = perturbed(cls(*sizes, **options))
    z, context = points(2, 4, sizes[0]), context_of(field, 4)
    rows = field(T, z, context)
    assert rows.shape == z.shape
    spread = None if context is None else context.expand(2, 4, -1).reshape(8, -1)
    values = field.read(spread, torch.Size((8,)))
    flat = field.velocity(values, T, z.reshape(8, -1).t()).t()
    torch.testing.assert_close(rows, flat.reshape(z.shape))
    for s, c in itertools.product(range(2), range(4)):
        one = field(T, z[s, c], None if context is None else context[c])
        torch.testing.assert_close(rows[s, c], one)


@EVERY
def test_a_fresh_field_is_zero(cls, sizes, options) -> None:
    field = cls(*sizes, **options).double()
    z = points(sizes[0], 5)
    values = field.read(context_of(field, 5), z.shape[1:])
    for velocity, rate in (
        field.with_products(values, T, z, z.unsqueeze(1)),
        *([field.with_divergence(values, T, z)] if field.closed_divergence else []),
    ):
        assert not velocity.any()
        assert not rate.any()


@EVERY
def test_every_parameter_gets_a_gradient(cls, sizes, options) -> None:
    field = perturbed(cls(*sizes, **options))
    z = points(sizes[0], 16)
    values = field.read(context_of(field, 16), z.shape[1:])
    velocity, products = field.with_products(values, T, z, z.unsqueeze(1))
    loss = velocity.square().sum() + products.square().sum()
    if field.closed_divergence:
        loss = loss + field.with_divergence(values, T, z)[1].square().sum()
    loss.backward()
    for name, parameter in field.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


# ------------------------------------------------------------------------- what all fields do


@KIND
@given(
    z_batch=st.lists(st.integers(0, 3), max_size=3),
    lead=st.integers(0, 3),
    ones=st.lists(st.booleans(), min_size=3, max_size=3),
)
@settings(max_examples=25, deadline=None)
def test_batches_broadcast(kind: str, z_batch: list, lead: int, ones: list) -> None:
    field = perturbed(KINDS[kind](context_dim=2))
    c_batch = [1 if one else n for n, one in zip(z_batch, ones, strict=False)][lead:]
    batch = torch.broadcast_shapes(z_batch, c_batch)
    z, context = points(*z_batch, 3), points(*c_batch, 2, seed=1)
    out = field(T, z, context)
    assert out.shape == (*batch, 3)
    torch.testing.assert_close(out, field(T, z, context.expand(*batch, 2).contiguous()))
    if kind == "potential":
        assert field.potential(T, z, context).shape == batch


@KIND
@CONTEXT
def test_derivatives_exist_twice(kind: str, context_dim: int) -> None:
    small = {"mlp": FieldMLP(2, (3, 2), context_dim=context_dim)}
    small["potential"] = PotentialField(2, 3, layers=3, context_dim=context_dim)
    module = Rates(perturbed(small[kind], 0.5))
    names = [name for name, _ in module.named_parameters()]
    context = context_of(module.field, 2)

    def rates(t: Tensor, z: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        values = dict(zip(names, parameters, strict=True))
        return functional_call(module, values, (t, z, context))

    leaves = [T, points(2, 2), *module.parameters()]
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    assert gradcheck(rates, leaves, fast_mode=True, check_forward_ad=True)
    assert gradgradcheck(rates, leaves, fast_mode=True)


@KIND
@CONTEXT
def test_float32_agrees_with_float64(kind: str, context_dim: int) -> None:
    field = perturbed(KINDS[kind](context_dim=context_dim))
    z, context = points(50, 3), context_of(field, 50)
    want = Rates(field)(T, z, context)
    context = None if context is None else context.float()
    got = Rates(copy.deepcopy(field).float())(T.float(), z.float(), context)
    for single, double in zip(got, want, strict=True):
        assert single.dtype == torch.float32
        scale = float(double.detach().abs().max())
        torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=2e-5 * scale)


@KIND
@pytest.mark.parametrize("place", ["bfloat16", "meta"])
def test_dtype_and_device_follow(kind: str, place: str) -> None:
    to = {"dtype": torch.bfloat16} if place == "bfloat16" else {"device": "meta"}
    field = KINDS[kind](context_dim=2).to(**to)
    inputs = torch.zeros((), **to), torch.zeros(4, 3, **to), torch.zeros(4, 2, **to)
    for out in Rates(field)(*inputs):
        assert out.dtype == inputs[1].dtype
        assert out.device == inputs[1].device


@KIND
def test_transforms_of_functions(kind: str) -> None:
    field = perturbed(KINDS[kind](context_dim=2))
    z, context = points(4, 3), points(4, 2, seed=1)
    mapped = torch.vmap(lambda v, c: field(T, v, c))(z, context)
    torch.testing.assert_close(mapped, field(T, z, context))
    forward = torch.vmap(jacfwd(lambda v, c: field(T, v, c)))(z, context)
    _, divergence = Rates(field)(T, z, context)
    torch.testing.assert_close(forward.diagonal(dim1=1, dim2=2).sum(1), divergence)


@KIND
def test_compiles_without_a_break(kind: str) -> None:
    module = Rates(perturbed(KINDS[kind](context_dim=2)))
    inputs = T, points(4, 3), points(4, 2, seed=1)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    for got, want in zip(compiled(*inputs), module(*inputs), strict=True):
        torch.testing.assert_close(got, want)


@KIND
def test_is_a_plain_module(kind: str) -> None:
    field, z = perturbed(KINDS[kind]()), points(2, 3)
    want = field(T, z)
    other = copy.deepcopy(field).apply(lambda module: module.zero_grad())
    perturb(other, 1.0, seed=5)
    other.load_state_dict(field.state_dict())
    for twin in (other, pickle.loads(pickle.dumps(field))):
        assert torch.equal(twin(T, z), want)


@KIND
def test_bad_inputs_are_refused(kind: str) -> None:
    plain, conditional = KINDS[kind](), KINDS[kind](context_dim=2)
    name = type(plain).__name__
    with pytest.raises(ValueError, match=rf"{name}\(input_dim=3\) got z of shape \(5, 2\)"):
        plain(T, torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"got z of shape \(\). Pass shape"):
        plain(T, torch.zeros(()))
    with pytest.raises(ValueError, match="context_dim=2 and got no context"):
        conditional(T, torch.zeros(5, 3))
    with pytest.raises(ValueError, match="without a context"):
        plain(T, torch.zeros(5, 3), torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"context of shape \(5, 4\)"):
        conditional(T, torch.zeros(5, 3), torch.zeros(5, 4))


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="FieldMLP got input_dim=0"):
        FieldMLP(0)
    with pytest.raises(TypeError, match="hidden_dims=64"):
        FieldMLP(2, 64)
    with pytest.raises(ValueError, match="time='late'"):
        FieldMLP(2, time="late")
    with pytest.raises(ValueError, match="activation='relu'"):
        FieldMLP(2, activation="relu")
    with pytest.raises(ValueError, match="PotentialField got layers=0"):
        PotentialField(2, layers=0)
    with pytest.raises(ValueError, match="rank=4 for the 3 coordinates"):
        PotentialField(2, rank=4)
    with pytest.raises(TypeError, match="hidden_dim=8.0"):
        PotentialField(2, 8.0)
    field = PotentialField(2)
    _, values, _ = field.columns(torch.zeros(1, 2), None)
    with pytest.raises(ValueError, match="name='kinetic'"):
        field.side_rate("kinetic", values, T, torch.zeros(2, 1))


# -------------------------------------------------------------------------------- activations


@pytest.mark.parametrize("name", SMOOTH)
def test_slopes_are_the_derivatives(name: str) -> None:
    """Softplus too beyond 20, where torch's own threshold cuts its slope in float64."""
    x = torch.linspace(-40, 40, 1601, dtype=torch.float64, requires_grad=True)
    value, slope = SMOOTH[name](x)
    (want,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(slope, want, rtol=1e-14, atol=1e-15)


def test_softplus_is_consistent_at_25() -> None:
    x = torch.tensor(25.0, dtype=torch.float64, requires_grad=True)
    value, slope = SMOOTH["softplus"](x)
    assert 0 < value.item() - 25 < 2e-11
    (first,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(first, slope.detach(), rtol=4e-16, atol=0.0)
    assert first.item() < 1
    (second,) = torch.autograd.grad(slope, x)
    torch.testing.assert_close(second, slope * torch.sigmoid(-x), rtol=1e-4, atol=0.0)
