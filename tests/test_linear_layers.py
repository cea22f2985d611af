"""Permutations and learned linear maps: exact log-determinants, round trips, known densities."""

from __future__ import annotations

import copy

import pyro.distributions as dist
import pytest
import torch
from torch.func import functional_call, jacrev, stack_module_state

from pyro_nf.bijections._reflections import reflect
from pyro_nf.transforms.householder import Householder
from pyro_nf.transforms.lu import LULinear
from pyro_nf.transforms.permutation import Permutation
from pyro_nf.transforms.qr import QRLinear
from pyro_nf.transforms.rotation import Rotation
from pyro_nf.transforms.scale import DiagonalScale
from pyro_nf.transforms.triangular import TriangularAffine

torch.set_num_threads(1)

LEARNED = {
    "scale": DiagonalScale,
    "lu": LULinear,
    "lu_permuted": lambda size: LULinear(size, seed=3, bias="none"),
    "qr": QRLinear,
    "qr_three": lambda size: QRLinear(size, reflections=3, bias="none"),
    "householder": Householder,
    "householder_nine": lambda size: Householder(size, reflections=9),
    "rotation": Rotation,
    "triangular": TriangularAffine,
}
LAYERS = {
    "permutation": lambda size: Permutation.random(size, seed=3),
    "reverse": Permutation.reverse,
    **LEARNED,
}
IDENTITY_AT_START = ["scale", "lu", "qr", "householder", "rotation", "triangular"]
DIRECTIONS = ["forward_and_ladj", "inverse_and_ladj"]


def build(name, size, scale=1.0, dtype=torch.float64):
    layer = LAYERS[name](size).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return layer


def matrix_of(layer, size):
    """W of y = W x + b, from the layer's values alone."""
    dtype = next(layer.parameters(), torch.zeros(1, dtype=torch.float64)).dtype
    offset = layer(torch.zeros(size, dtype=dtype))
    return (layer(torch.eye(size, dtype=dtype)) - offset).mT, offset


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("size", [1, 2, 5, 10])
@pytest.mark.parametrize("name", LAYERS)
def test_log_det_is_autograds(name, size, scale):
    layer = build(name, size, scale)
    x = torch.randn(3, size, dtype=torch.float64)
    y, ladj = layer.forward_and_ladj(x)
    _, inverse_ladj = layer.inverse_and_ladj(y)
    jacobian = jacrev(lambda row: layer.forward_and_ladj(row)[0])(x[0])
    expected = torch.linalg.slogdet(jacobian)[1].expand(3)
    torch.testing.assert_close(ladj, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(inverse_ladj, -expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("size", [1, 2, 5, 10, 64])
@pytest.mark.parametrize("name", LAYERS)
def test_round_trip(name, size, scale):
    layer = build(name, size, scale)
    x = torch.randn(3, size, dtype=torch.float64)
    y, _ = layer.forward_and_ladj(x)
    back, _ = layer.inverse_and_ladj(y)
    torch.testing.assert_close(back, x, atol=1e-8, rtol=0)


@pytest.mark.parametrize("name", LAYERS)
def test_round_trip_in_single_precision(name):
    layer = build(name, 6, 1.0, torch.float32)
    x = torch.randn(50, 6)
    back, _ = layer.inverse_and_ladj(layer.forward_and_ladj(x)[0])
    torch.testing.assert_close(back, x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch", [(), (0,), (1,), (5,), (2, 5)])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_any_batch_shape(name, direction, batch):
    layer = build(name, 3, dtype=torch.float32)
    x = torch.randn(*batch, 3)
    y, ladj = getattr(layer, direction)(x)
    assert (y.shape, ladj.shape) == (x.shape, batch)
    assert y.dtype == ladj.dtype == torch.float32
    rows, row_ladj = getattr(layer, direction)(x.reshape(-1, 3))
    torch.testing.assert_close(y.reshape(-1, 3), rows)
    torch.testing.assert_close(ladj.reshape(-1), row_ladj)


@pytest.mark.parametrize("name", LAYERS)
def test_features_stay_first_in_memory(name):
    layer = build(name, 3)
    for direction in DIRECTIONS:
        y, _ = getattr(layer, direction)(torch.randn(2, 5, 3, dtype=torch.float64))
        assert y.movedim(-1, 0).is_contiguous()


@pytest.mark.parametrize("name", IDENTITY_AT_START)
def test_starts_at_the_identity(name):
    x = torch.randn(4, 7)
    y, ladj = LAYERS[name](7).forward_and_ladj(x)
    torch.testing.assert_close(y, x, atol=2e-6, rtol=0)
    assert not ladj.any()


@pytest.mark.parametrize("name", LEARNED)
def test_pushes_a_standard_normal_to_the_known_normal(name):
    layer = build(name, 4)
    base = dist.Normal(torch.zeros(4, dtype=torch.float64), 1.0).to_event(1)
    y = torch.randn(6, 4, dtype=torch.float64)
    matrix, offset = matrix_of(layer, 4)
    expected = dist.MultivariateNormal(offset, matrix @ matrix.mT).log_prob(y)
    actual = dist.TransformedDistribution(base, [layer]).log_prob(y)
    torch.testing.assert_close(actual, expected, atol=1e-8, rtol=1e-8)


def test_triangular_affine_is_lower_triangular_with_a_positive_diagonal():
    matrix, _ = matrix_of(build("triangular", 5), 5)
    assert not matrix.triu(1).any()
    assert (matrix.diagonal() > 0).all()


def test_lu_linear_is_a_permuted_product_of_triangles():
    layer = build("lu_permuted", 4)
    matrix, _ = matrix_of(layer, 4)
    unpermuted = matrix[layer.permutation.argsort()]
    # Without pivoting, leading minors of L U are products of the diagonal of U.
    minors = torch.stack([torch.linalg.det(unpermuted[:k, :k]) for k in range(1, 5)])
    expected = layer.factors.diagonal().cumsum(0).exp()
    torch.testing.assert_close(minors, expected, atol=0, rtol=1e-9)


def test_lu_linear_round_trip_does_not_depend_on_its_scales():
    layer = build("lu", 5).requires_grad_(requires_grad=False)
    layer.factors.diagonal().copy_(torch.linspace(-30, 30, 5))
    layer.bias.zero_()
    x = torch.randn(20, 5, dtype=torch.float64)
    back, _ = layer.inverse_and_ladj(layer.forward_and_ladj(x)[0])
    torch.testing.assert_close(back, x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_reflect_is_the_product_of_the_reflections(count):
    vectors = torch.randn(count, 4, dtype=torch.float64)
    expected = eye = torch.eye(4, dtype=torch.float64)
    for v in vectors:
        expected = expected @ (eye - 2 * torch.outer(v, v) / v.dot(v))
    torch.testing.assert_close(reflect(vectors, eye), expected, atol=1e-13, rtol=0)
    transposed = reflect(vectors, eye, side="transposed")
    torch.testing.assert_close(transposed, expected.mT, atol=1e-13, rtol=0)


def test_many_reflections_in_few_dimensions_stay_orthogonal():
    q = reflect(torch.randn(200, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(q @ q.mT, torch.eye(2, dtype=torch.float64), atol=1e-12, rtol=0)


def test_a_zero_vector_reflects_nothing():
    x = torch.randn(3, 2)
    torch.testing.assert_close(reflect(torch.zeros(2, 3), x), x)


@pytest.mark.parametrize("name", ["rotation", "householder"])
def test_orthogonal_layers_preserve_length_and_orientation(name):
    matrix, _ = matrix_of(build(name, 5, 3.0), 5)
    eye = torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(matrix @ matrix.mT, eye, atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.linalg.det(matrix), eye[0, 0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", LEARNED)
def test_every_parameter_gets_a_gradient(name, direction, scale):
    layer = build(name, 5, scale)
    y, ladj = getattr(layer, direction)(torch.randn(7, 5, dtype=torch.float64))
    (y.tanh().square().sum() + ladj.sum()).backward()
    for key, parameter in layer.named_parameters():
        assert parameter.grad.isfinite().all(), key
        # At a zero factor some entries may have none, but never a whole parameter.
        assert (parameter.grad != 0).all() if scale else parameter.grad.any(), key


def test_equal_pairs_of_reflections_can_be_trained_apart():
    target = build("rotation", 3, 0.3)
    x = torch.randn(200, 3, dtype=torch.float64)
    y = target(x).detach()
    layer = LAYERS["householder"](3).double()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (layer(x) - y).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 1e-6


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", LEARNED)
def test_is_twice_differentiable(name, direction):
    layer = build(name, 3)
    names, values = zip(*layer.named_parameters(), strict=True)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    class Pass(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return getattr(self.layer, direction)(x)

    def evaluate(x, *parameters):
        state = {f"layer.{key}": value for key, value in zip(names, parameters, strict=True)}
        return functional_call(Pass(), state, (x,))

    inputs = (x, *[v.detach().requires_grad_() for v in values])
    assert torch.autograd.gradcheck(evaluate, inputs)
    assert torch.autograd.gradgradcheck(evaluate, inputs)


@pytest.mark.parametrize("name", LAYERS)
def test_state_dict_restores_a_layer_built_with_another_seed(name):
    layer = build(name, 6)
    torch.manual_seed(99)
    other = {
        "permutation": lambda: Permutation.random(6, seed=8),
        "lu_permuted": lambda: LULinear(6, seed=8, bias="none"),
    }.get(name, lambda: LAYERS[name](6))().double()
    x = torch.randn(4, 6, dtype=torch.float64)
    other(x)
    other.load_state_dict(layer.state_dict())
    for direction in DIRECTIONS:
        for actual, expected in zip(
            getattr(other, direction)(x), getattr(layer, direction)(x), strict=True
        ):
            assert torch.equal(actual, expected)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_half_precision_computes_in_single_and_returns_half(name, direction):
    layer = build(name, 4, 0.5, torch.bfloat16)
    x = torch.randn(5, 4).bfloat16()
    y, ladj = getattr(layer, direction)(x)
    assert y.dtype == ladj.dtype == torch.bfloat16
    exact = copy.deepcopy(layer).double()
    expected, expected_ladj = getattr(exact, direction)(x.double())
    # One rounding to 8 bits at the end: relative error 2^-8 at most.
    torch.testing.assert_close(y.double(), expected, atol=1e-4, rtol=2**-8)
    torch.testing.assert_close(ladj.double(), expected_ladj, atol=1e-4, rtol=2**-8)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_runs_where_there_are_no_values(name, direction):
    layer = LAYERS[name](4).to("meta")
    y, ladj = getattr(layer, direction)(torch.empty(5, 4, device="meta"))
    assert (y.shape, ladj.shape) == ((5, 4), (5,))
    assert y.is_meta
    assert ladj.is_meta


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_maps_over_rows(name, direction):
    layer = build(name, 4)
    x = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(
        torch.vmap(getattr(layer, direction))(x), getattr(layer, direction)(x)
    )


@pytest.mark.parametrize("name", LEARNED)
def test_maps_over_an_ensemble_of_parameters(name):
    layers = [build(name, 4) for _ in range(3)]
    state, buffers = stack_module_state(layers)
    x = torch.randn(5, 4, dtype=torch.float64)

    def evaluate(parameters, constants):
        return functional_call(layers[0], (parameters, constants), (x,))

    expected = torch.stack([layer(x) for layer in layers])
    torch.testing.assert_close(torch.vmap(evaluate)(state, buffers), expected)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_compiles_without_a_break(name, direction):
    torch._dynamo.reset()
    layer = build(name, 4)
    x = torch.randn(5, 4, dtype=torch.float64)
    compiled = torch.compile(getattr(layer, direction), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), getattr(layer, direction)(x))


@pytest.mark.parametrize(
    ("name", "sign"),
    [("permutation", 1), ("scale", 1), ("lu", 1), ("qr", 1), ("qr_three", -1), ("rotation", 1)]
    + [("householder", 1), ("householder_nine", -1), ("triangular", 1)],
)
def test_sign_of_one_dimension(name, sign):
    layer = build(name, 1)
    rise = layer(torch.ones(1, dtype=torch.float64)) - layer(torch.zeros(1, dtype=torch.float64))
    assert layer.sign == sign == rise.sign().item()
    with pytest.raises(NotImplementedError, match="no monotone map"):
        _ = LAYERS[name](2).sign


def test_permutation_moves_what_it_says():
    layer = Permutation([2, 0, 1])
    x = torch.tensor([10.0, 11.0, 12.0])
    assert layer(x).tolist() == [12.0, 10.0, 11.0]
    assert layer.inv(x).tolist() == [11.0, 12.0, 10.0]
    assert Permutation(torch.tensor([1, 0]))(x[:2]).tolist() == [11.0, 10.0]


def test_random_permutations_depend_on_their_seed_alone():
    before = torch.get_rng_state()
    first = Permutation.random(20, seed=5).permutation
    torch.manual_seed(1)
    assert torch.equal(Permutation.random(20, seed=5).permutation, first)
    assert not torch.equal(Permutation.random(20, seed=6).permutation, first)
    torch.set_rng_state(before)
    LULinear(20, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Permutation([]), ValueError, "no reordering"),
        (lambda: Permutation([0, 2]), ValueError, r"permutation=\[0, 2\].*Pass each index once"),
        (lambda: Permutation(3), TypeError, "Pass a sequence of integers"),
        (lambda: Permutation([0.0, 1.0]), TypeError, "Pass a sequence of integers"),
        (lambda: Permutation.random(0), ValueError, "input_dim=0"),
        (lambda: DiagonalScale(0), ValueError, "DiagonalScale got input_dim=0"),
        (lambda: LULinear(2.0), TypeError, "LULinear got input_dim=2.0"),
        (lambda: LULinear(2, bias="yes"), ValueError, "Pass one of 'learned', 'none'"),
        (lambda: QRLinear(2, reflections=0), ValueError, "QRLinear got reflections=0"),
        (lambda: Householder(2, reflections=-1), ValueError, "Householder got reflections=-1"),
    ],
)
def test_refuses_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("name", LAYERS)
def test_refuses_bad_inputs(name):
    layer = LAYERS[name](3)
    with pytest.raises(ValueError, match=r"got x with last dimension 4; expected shape \(\*batch"):
        layer.forward_and_ladj(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="got y with no dimensions"):
        layer.inverse_and_ladj(torch.zeros(()))
    with pytest.raises(ValueError, match="built without context"):
        layer.forward_and_ladj(torch.zeros(2, 3), torch.zeros(2, 1))
