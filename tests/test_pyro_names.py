"""The names of ``pyro.distributions.transforms``: signatures, options, contexts."""

from __future__ import annotations

import functools
import inspect

import pyro.distributions as dist
import pyro.distributions.transforms as P
import pytest
import torch
from cases_pyro import GivenArn
from pyro_layers import log_det, perturb
from torch import nn

from pyro_nf import flows
from pyro_nf import transforms as T  # noqa: N812

torch.set_num_threads(1)

FACTORIES = [name for name in P.__all__ if name.islower() and name != "identity_transform"]
CONDITIONAL = [name for name in T.__all__ if name.startswith("conditional_")]
CONSTANT = [name.removeprefix("conditional_") for name in CONDITIONAL]


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def build(name: str, context_dim: int = 3) -> T.FlowTransform:
    """A layer of two dimensions, or of three channels, by a factory's name."""
    conditional = name.startswith("conditional_")
    if name.endswith("channel_permute"):
        return getattr(T, name)(*([context_dim] if conditional else []), channels=3)
    return getattr(T, name)(2, *([context_dim] if conditional else []))


def event(name: str) -> tuple[int, ...]:
    return (3, 4, 4) if name.endswith("channel_permute") else (2,)


# The namespace


def test_every_name_of_pyros_is_here() -> None:
    assert set(P.__all__) <= set(T.__all__)
    assert {"tanh", *(f"conditional_{name}" for name in CONSTANT)} <= set(T.__all__)
    assert len(set(T.__all__)) == len(T.__all__)
    for name in FACTORIES:
        assert inspect.isfunction(getattr(T, name)), name  # not the module of that name
    for name in P.__all__:
        if name[0].isupper():
            assert inspect.isclass(getattr(T, name)), name


@pytest.mark.parametrize("name", FACTORIES)
def test_factories_take_what_pyros_take(name: str) -> None:
    theirs = inspect.signature(getattr(P, name)).parameters
    ours = inspect.signature(getattr(T, name)).parameters
    positional = [p for p in theirs.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    mine = [p for p in ours.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in mine[: len(positional)]] == [p.name for p in positional]
    for got, want in zip(mine, positional, strict=False):
        assert got.default == want.default, got.name


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Spline", "input_dim count_bins bound order"),
        ("AffineAutoregressive", "autoregressive_nn log_scale_min_clip log_scale_max_clip"),
        ("NeuralAutoregressive", "autoregressive_nn hidden_units activation"),
        ("BlockAutoregressive", "input_dim hidden_factors activation residual"),
        ("BatchNorm", "input_dim momentum epsilon"),
        ("Householder", "input_dim count_transforms"),
        ("GeneralizedChannelPermute", "channels permutation"),
        ("ConditionalSpline", "nn input_dim count_bins bound order"),
        ("SplineCoupling", "input_dim split_dim hypernet count_bins bound order identity"),
        ("Polynomial", "autoregressive_nn input_dim count_degree count_sum"),
        ("ConditionalHouseholder", "input_dim nn count_transforms"),
        ("ConditionalMatrixExponential", "input_dim nn iterations normalization bound"),
    ],
)
def test_classes_take_what_pyros_take(name: str, arguments: str) -> None:
    for space in (P, T):
        names = list(inspect.signature(getattr(space, name)).parameters)
        assert names[: len(arguments.split())] == arguments.split()


@pytest.mark.parametrize("name", CONDITIONAL)
def test_a_context_changes_no_class(name: str) -> None:
    assert type(build(name)) is type(build(name.removeprefix("conditional_")))


@pytest.mark.parametrize("name", [*CONSTANT, *CONDITIONAL])
def test_every_factorys_layer_inverts_with_the_right_log_det(name: str) -> None:
    layer = build(name).eval()
    perturb(layer)
    bound = layer.condition(torch.randn(3) if layer.context_dim else None)
    x = torch.randn(4, *event(name))
    y, ladj = bound.forward_and_ladj(x)
    torch.testing.assert_close(bound.inv(y.clone()), x, rtol=0, atol=1e-8)
    for row in range(2):
        want = log_det(lambda v: bound.forward_and_ladj(v)[0], x[row])
        torch.testing.assert_close(ladj[row], want)


# Contexts


@pytest.mark.parametrize("name", CONDITIONAL)
def test_contexts_make_a_batch_of_independent_draws(name: str) -> None:
    shape = event(name)
    base = dist.Normal(torch.zeros(shape), 1.0).to_event(len(shape))
    flow = dist.ConditionalTransformedDistribution(base, [build(name)])
    d = flow.condition(torch.randn(7, 3))
    assert d.batch_shape == (7,)
    draws = d.sample((11,))
    assert draws.shape == (11, 7, *shape)
    assert d.log_prob(draws).shape == (11, 7)
    same = flow.condition(torch.zeros(7, 3)).sample()
    assert (same[0] - same[1]).abs().min() > 0


def test_one_row_of_context_adds_no_batch_to_a_layer() -> None:
    bound = build("conditional_spline").condition(torch.zeros(1, 3))
    assert bound.forward_shape((2,)) == bound.inverse_shape((2,)) == (2,)
    assert bound(torch.zeros(2)).shape == (1, 2)


def test_one_row_of_context_is_a_batch_of_one_to_a_flow() -> None:
    flow = flows.maf(2, context_dim=3)
    for batch in ((), (1,), (1, 1), (7,), (1, 7)):
        d = flow(torch.zeros(*batch, 3))
        assert d.batch_shape == batch
        assert d.sample((11,)).shape == (11, *batch, 2)
        assert d.log_prob(d.sample()).shape == batch


# Options


def test_clips_bound_the_scale_softly() -> None:
    layer = T.AffineAutoregressive(
        GivenArn([0, 1], [1, 1]), log_scale_min_clip=-1.0, log_scale_max_clip=3.0
    )
    raw = torch.tensor([-1e9, -1e3, -1e-3, 0.0, 1e-3, 1e3, 1e9], requires_grad=True)
    params = torch.stack([torch.zeros(7), raw])
    log_scale = layer.bijection.forward(torch.ones(7), params)[1]
    (slope,) = torch.autograd.grad(log_scale.sum(), raw)
    assert (slope > 0).all()
    assert slope[3] == 1
    assert (log_scale.diff() > 0).all()
    assert -1 <= log_scale[0] < -0.99
    assert 2.99 < log_scale[-1] <= 3


def test_stable_is_the_gated_average() -> None:
    layer = T.affine_autoregressive(3, stable=True, sigmoid_bias=1.0)
    x = torch.randn(5, 3)
    torch.testing.assert_close(layer(x), x * torch.sigmoid(torch.tensor(1.0)))


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (functools.partial(T.spline, order="quadratic", count_bins=5), 14),
        (functools.partial(T.spline_autoregressive, order="quadratic", count_bins=5), 14),
        (functools.partial(T.spline_coupling, order="quadratic", count_bins=5), 14),
        (functools.partial(T.spline_coupling, order="linear", count_bins=5), 19),
        (functools.partial(T.polynomial, count_degree=2, count_sum=2), 7),
        (functools.partial(T.neural_autoregressive, width=5), 15),
    ],
)
def test_options_that_size_the_parameters(make: object, count: int) -> None:
    assert make(4).bijection.param_count == count


NETWORKED = [
    "affine_autoregressive",
    "affine_coupling",
    "neural_autoregressive",
    "polynomial",
    "spline_autoregressive",
    "spline_coupling",
]


@pytest.mark.parametrize("name", NETWORKED)
def test_networks_take_any_width_and_nonlinearity(name: str) -> None:
    layer = getattr(T, name)(5, hidden_dims=[3, 2], nonlinearity=nn.Tanh())
    activations = [m for m in layer.modules() if isinstance(m, nn.Tanh)]
    assert len(set(map(id, activations))) == 2
    assert layer(torch.randn(7, 5)).shape == (7, 5)


def test_identity_of_a_spline_coupling_keeps_what_its_network_reads() -> None:
    x = torch.randn(6, 5)
    for identity in (True, False):
        layer = T.spline_coupling(5, split_dim=2, identity=identity)
        perturb(layer)
        assert torch.equal(layer(x)[:, :2], x[:, :2]) == identity


@pytest.mark.parametrize("parity", [0, 1])
@pytest.mark.parametrize("shape", [(4,), (3, 2), (2, 3, 2)])
def test_couplings_split_any_dimension(shape: tuple[int, ...], parity: int) -> None:
    layer = T.affine_coupling(shape, dim=-len(shape), split_dim=1, parity=parity)
    perturb(layer)
    x = torch.randn(5, *shape)
    y, ladj = layer.forward_and_ladj(x)
    kept = slice(1, None) if parity else slice(0, 1)
    assert torch.equal(y[:, kept], x[:, kept])
    assert layer.domain.event_dim == len(shape)
    torch.testing.assert_close(ladj[0], log_det(layer, x[0]))
    torch.testing.assert_close(layer.inv(y.clone()), x)
    with pytest.raises(ValueError, match="expected shape"):
        layer(torch.randn(5, *shape[:-1], shape[-1] + 1))


@pytest.mark.parametrize("dim", [-1, -2])
def test_permutations_of_any_dimension(dim: int) -> None:
    shape = (3,) if dim == -1 else (3, 2)
    layer = T.permute(shape if dim < -1 else 3, torch.tensor([2, 0, 1]), dim=dim)
    x = torch.randn(5, *shape)
    assert torch.equal(layer(x), x[:, [2, 0, 1]])
    assert torch.equal(layer.inv(layer(x)), x)
    assert layer.log_abs_det_jacobian(x, layer(x)).shape == (5,)
    twin = T.permute(shape if dim < -1 else 3, dim=dim, seed=5)
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin(x), layer(x))


def test_a_permutation_by_default_moves_something() -> None:
    for size in (2, 3):
        for seed in range(5):
            assert T.permute(size, seed=seed).permutation.tolist() != list(range(size))
    assert T.permute(1).permutation.tolist() == [0]


@pytest.mark.parametrize("normalization", ["weight", "spectral"])
def test_matrix_exponential_keeps_its_norm(normalization: str) -> None:
    layer = T.matrix_exponential(4, normalization=normalization, bound=0.5)
    perturb(layer, 30.0)
    exponent = layer.bijection._bounded({"weight": layer.weight})["weight"] / 2
    order = "fro" if normalization == "weight" else 2
    assert 0.45 < torch.linalg.matrix_norm(exponent, order) < 0.5
    x = torch.randn(3, 4)
    torch.testing.assert_close(layer(x), x @ torch.linalg.matrix_exp(exponent).T)


def test_elu_supports_its_own_draws_and_inverts_exactly() -> None:
    d = dist.TransformedDistribution(dist.Normal(0.0, 1.0).expand([1000]), [T.elu()])
    assert torch.isfinite(d.log_prob(d.sample())).all()
    x = torch.linspace(-20, 5, 50).requires_grad_()
    y = T.elu()(x)
    torch.testing.assert_close(T.elu().inv(y.clone())[:40], x[:40], rtol=0, atol=1e-6)
    (grad,) = torch.autograd.grad(T.elu().inv(y * 1).sum(), x)
    torch.testing.assert_close(grad[20:], torch.ones(30))


def test_the_order_of_a_layers_own_network_has_pyros_name() -> None:
    layer = T.affine_autoregressive(3, permutation=[2, 0, 1])
    perturb(layer)
    order = layer.arn.get_permutation()
    assert order.tolist() == layer.arn.permutation.tolist() == [2, 0, 1]
    jacobian = torch.autograd.functional.jacobian(layer, torch.randn(3))
    jacobian = jacobian[order][:, order]
    assert layer.autoregressive
    assert torch.equal(jacobian, jacobian.tril())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: T.AffineAutoregressive(nn.Linear(3, 3)), TypeError, "permutation"),
        (lambda: T.AffineAutoregressive(GivenArn([0, 1], [3])), ValueError, "makes 3 parameters"),
        (lambda: T.SplineAutoregressive(3, GivenArn([0, 1], [31])), ValueError, "2 inputs"),
        (lambda: T.ConditionalPlanar(lambda c: c, input_dim=2), ValueError, "context_dim=3"),
        (lambda: T.ConditionalPlanar(nn.Linear(3, 3)), ValueError, "input_dim=2"),
        (lambda: T.affine_coupling(4, split_dim=4), ValueError, "nothing to move"),
        (lambda: T.affine_coupling((4, 2)), ValueError, "sizes"),
        (lambda: T.affine_coupling(4, dim=1), ValueError, "dim=1"),
        (lambda: T.affine_coupling(4, parity=2), ValueError, "parity=2"),
        (lambda: T.affine_coupling(4, log_scale_min_clip=1.0), ValueError, "below 0"),
        (lambda: T.spline(3, order="cubic"), ValueError, "order='cubic'"),
        (lambda: T.neural_autoregressive(3, activation="relu"), ValueError, "activation='relu'"),
        (lambda: T.matrix_exponential(3, normalization="l1"), ValueError, "normalization='l1'"),
        (lambda: T.matrix_exponential(3, iterations=0), ValueError, "iterations=0"),
        (lambda: T.permute(3, [0, 1]), ValueError, "permutation of 2"),
        (lambda: T.Permute([0, 1], dim=0), ValueError, "dim=0"),
        (lambda: T.GeneralizedChannelPermute(3, [0, 1]), ValueError, "permutation of 2"),
    ],
)
def test_bad_arguments_are_refused(make: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make()
