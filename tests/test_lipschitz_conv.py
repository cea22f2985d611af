"""Lipschitz networks of images and their residual layer: norms, Jacobians, both directions."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pyro_nf.nn import LipschitzConvNet
from pyro_nf.nn._contractive import CONSTANTS
from pyro_nf.nn._spectral_conv import ConvLimit, dense_norm, torus_norm
from pyro_nf.transforms import InvertibleResidual2d, LogDetSeries
from pyro_nf.transforms._residual import implicit

torch.set_num_threads(1)

KERNELS = [(3, 2, 3, 3), (2, 4, 3, 3), (1, 1, 5, 3), (2, 2, 5, 5), (4, 3, 1, 1)]
SIZES = [(1, 1), (2, 3), (4, 4), (7, 5)]


def matrix(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """The convolution of images with zeros beyond their border, as a matrix."""
    count = weight.shape[1] * size[0] * size[1]
    images = torch.eye(count, dtype=weight.dtype).reshape(count, -1, *size)
    half = weight.shape[2] // 2, weight.shape[3] // 2
    return nn.functional.conv2d(images, weight, padding=half).flatten(1).t()


def perturbed(
    shape: tuple[int, int, int], scale: float = 1.0, **options: object
) -> LipschitzConvNet:
    torch.manual_seed(0)
    options = {"hidden_channels": (4, 3), "lipschitz": 0.9} | options
    network = LipschitzConvNet(shape, **options).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=scale)
    network.refine()
    return network


def layer(shape: tuple[int, int, int] = (2, 3, 2), **options: object) -> InvertibleResidual2d:
    torch.manual_seed(0)
    options = {"fast": "log_prob", "hidden_channels": (4, 3)} | options
    made = InvertibleResidual2d(shape, **options).double().eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("shape", KERNELS, ids=str)
def test_norms_bound_the_operator(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    for _ in range(5):
        weight = torch.randn(shape).double()
        want = torch.linalg.matrix_norm(matrix(weight, size), 2)
        torch.testing.assert_close(dense_norm(weight, size), want, rtol=1e-12, atol=0)
        assert torus_norm(weight, size) >= want * (1 - 1e-12)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("size", [*itertools.product(range(1, 5), repeat=2)], ids=str)
def test_bounds_are_close_also_where_the_kernel_exceeds_the_image(
    kernel: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(7)
    for channels in ((1, 1), (4, 8), (16, 12)):
        limit = ConvLimit((*channels, kernel, kernel), size, 0.9, "exact")
        weight = torch.randn(*channels, kernel, kernel).double()
        want = torch.linalg.matrix_norm(matrix(weight, size), 2)
        assert want * (1 - 1e-12) <= limit.exact(weight) <= 1.3 * want


def test_images_of_one_pixel_are_exact_and_their_unseen_taps_have_no_gradient() -> None:
    weight = torch.randn(40, 50, 3, 5).double().requires_grad_()
    limit = ConvLimit((40, 50, 3, 5), (1, 1), 0.9, "exact")
    want = torch.linalg.matrix_norm(matrix(weight.detach(), (1, 1)), 2)
    norm = limit.exact(weight)
    torch.testing.assert_close(norm.detach(), want, rtol=1e-12, atol=0)
    grad = torch.autograd.grad(norm, weight)[0]
    assert grad[:, :, 1, 2].abs().min() > 0
    grad[:, :, 1, 2] = 0
    assert not grad.any()


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 3)], ids=str)
def test_norms_of_cropped_kernels_are_twice_differentiable(size: tuple[int, int]) -> None:
    torch.manual_seed(8)
    weight = torch.randn(2, 1, 5, 5).double().requires_grad_()
    limit = ConvLimit((2, 1, 5, 5), size, 0.9, "exact")
    assert torch.autograd.gradcheck(limit.exact, weight)
    assert torch.autograd.gradgradcheck(limit.exact, weight)


def test_the_torus_is_close_for_large_images() -> None:
    torch.manual_seed(2)
    weight = torch.randn(3, 2, 3, 3).double()
    want = torch.linalg.matrix_norm(matrix(weight, (12, 12)), 2)
    assert want <= torus_norm(weight, (12, 12)) <= 1.05 * want


def test_the_norm_of_the_reshaped_kernel_would_not_do() -> None:
    """A kernel of equal weights: as a matrix 1 × 9 its norm is 3, on images it tends to 9."""
    weight = torch.ones(1, 1, 3, 3).double()
    as_matrix = torch.linalg.matrix_norm(weight.flatten(1), 2)
    operator = torch.linalg.matrix_norm(matrix(weight, (8, 8)), 2)
    assert as_matrix == pytest.approx(3)
    assert operator > 2.7 * as_matrix
    limited = ConvLimit((1, 1, 3, 3), (8, 8), 0.9, "exact")(weight)
    assert 0.8 < torch.linalg.matrix_norm(matrix(limited, (8, 8)), 2) <= 0.9 + 1e-12


@pytest.mark.parametrize("norm", [dense_norm, torus_norm])
@pytest.mark.parametrize("shape", KERNELS[:3], ids=str)
def test_norms_are_twice_differentiable(norm: Callable, shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    weight = torch.randn(shape).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: norm(w, (4, 3)), weight)
    assert torch.autograd.gradgradcheck(lambda w: norm(w, (4, 3)), weight)


@pytest.mark.parametrize("norm", ["exact", "power"])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e20])
def test_kernels_of_any_size(norm: str, size: float) -> None:
    for images in ((2, 2), (6, 6)):  # by the matrix, by the torus
        weight = (size * torch.randn(2, 2, 3, 3)).requires_grad_()
        limited = ConvLimit((2, 2, 3, 3), images, 0.9, norm)(weight)
        assert limited.isfinite().all()
        assert torch.autograd.grad(limited.sum(), weight)[0].isfinite().all()


def test_norms_are_exact_unless_that_is_dear() -> None:
    assert ConvLimit((32, 4, 3, 3), (16, 16), 0.9, "auto").steady
    assert ConvLimit((512, 512, 1, 1), (8, 8), 0.9, "auto").norm == "power"
    assert ConvLimit((64, 64, 3, 3), (32, 32), 0.9, "auto").norm == "power"
    assert ConvLimit((128, 128, 7, 7), (1, 1), 0.9, "auto").norm == "exact"
    assert not LipschitzConvNet((2, 4, 4), norm="power").steady
    assert LipschitzConvNet((2, 4, 4)).steady


@pytest.mark.parametrize("name", CONSTANTS)
@pytest.mark.parametrize("norm", ["exact", "power"])
def test_every_convolution_and_the_map_keep_the_bound(name: str, norm: str) -> None:
    network = perturbed((2, 4, 5), 3, activation=name, norm=norm)
    for _ in range(5):
        network.refine()
    for linear in network.linears:
        scaled = linear.limit(linear.conv.weight)
        top = torch.linalg.matrix_norm(matrix(scaled, (4, 5)), 2)
        assert top <= linear.limit.limit * (1 + 1e-12)
    if norm == "exact":
        assert network.lipschitz_bound() <= 0.9 + 1e-12
    a, b = 3 * torch.randn(2, 500, 2, 4, 5).double()
    for other in (b, a + 1e-3 * b):
        ratio = (network(a) - network(other)).flatten(1).norm(dim=1)
        assert (ratio / (a - other).flatten(1).norm(dim=1)).max() <= 0.9
    jacobian = network.read(None, torch.Size([20])).with_jacobian(torch.randn(40, 20).double())[1]
    assert torch.linalg.matrix_norm(jacobian.movedim(-1, 0), 2).max() <= 0.9


def test_the_bound_holds_through_random_updates() -> None:
    network = perturbed((2, 4, 4), 0.3, lipschitz=0.95)
    torch.manual_seed(4)
    largest = torch.zeros(())
    for _ in range(50):
        for parameter in network.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        largest = torch.maximum(largest, network.lipschitz_bound())
    assert 0.8 < largest <= 0.95 + 1e-12


@pytest.mark.parametrize("name", CONSTANTS)
@pytest.mark.parametrize(
    ("shape", "hidden", "kernels"),
    [
        ((2, 3, 2), (3,), (3, 1)),
        ((1, 7, 6), (4, 3), (3, 1, 3)),  # far pixels share a tangent
        ((2, 4, 9), (3,), (3, 3)),
        ((1, 8, 5), (), (3,)),
    ],
    ids=str,
)
def test_jacobian_is_autograds(
    name: str, shape: tuple[int, int, int], hidden: tuple, kernels: tuple
) -> None:
    network = perturbed(
        shape, activation=name, hidden_channels=hidden, kernel_sizes=kernels, context_dim=2
    )
    context = torch.randn(3, 2).double()
    g = network.read(context, torch.Size([3]))
    columns = torch.randn(3, *shape).double().movedim(1, -1).flatten(1).t()
    value, jacobian = g.with_jacobian(columns)
    torch.testing.assert_close(value, g(columns))
    for i in range(3):
        row = network.read(context[i], torch.Size([]))
        want = torch.autograd.functional.jacobian(
            lambda u, row=row: row(u[:, None])[:, 0], columns[:, i]
        )
        torch.testing.assert_close(jacobian[..., i], want)


@pytest.mark.parametrize(
    "options", [{}, {"context_dim": 3}, {"context_shape": (2, 3, 2)}], ids=str
)
def test_network_keeps_shapes_and_rows(options: dict) -> None:
    network = LipschitzConvNet((2, 4, 3), (4,), **options)
    context = torch.randn(5, network.context_dim) if options else None
    out = network(torch.randn(6, 5, 2, 4, 3), context)
    assert torch.equal(out, torch.zeros(6, 5, 2, 4, 3))
    network = perturbed((2, 4, 3), 0.5, **options)
    x, context = torch.randn(6, 5, 2, 4, 3).double(), None if context is None else context.double()
    row = network(x[1, 2], None if context is None else context[2])
    torch.testing.assert_close(network(x, context)[1, 2], row)
    half = network.bfloat16()(x.bfloat16(), None if context is None else context.bfloat16())
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("fast", ["log_prob", "sample"])
@pytest.mark.parametrize("shape", [(2, 3, 2), (1, 7, 6)], ids=str)
def test_round_trip_and_log_det(fast: str, shape: tuple[int, int, int]) -> None:
    made = layer(shape, fast=fast)
    x = torch.randn(4, *shape).double()
    y, ladj = made.forward_and_ladj(x)
    back, back_ladj = made.inverse_and_ladj(y)
    assert (back - x).abs().max() <= 1e-12
    flat = torch.Size(shape).numel()
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda v: made.forward_and_ladj(v)[0], x[i])
        want = torch.linalg.slogdet(jacobian.reshape(flat, flat))[1]
        assert (ladj[i] - want).abs() <= 1e-10
        assert (back_ladj[i] + want).abs() <= 1e-10


def test_density_integrates_to_one() -> None:
    made = layer((2, 1, 1), lipschitz=0.7)
    edge = torch.linspace(-20, 20, 301).double()
    grid = torch.cartesian_prod(edge, edge).reshape(-1, 2, 1, 1)
    with torch.no_grad():
        x, ladj = made.inverse_and_ladj(grid)
    log_base = torch.distributions.Normal(0, 1).log_prob(x).sum((1, 2, 3))
    density = (log_base + ladj).exp()
    assert abs(density.sum() * (edge[1] - edge[0]) ** 2 - 1) <= 1e-3


def test_estimates_come_near_the_exact_log_det() -> None:
    y = torch.randn(40, 2, 3, 2).double()
    want = layer(lipschitz=0.7).inverse_and_ladj(y)[1]
    series = LogDetSeries(terms=10, eval_probes=100)
    got = layer(lipschitz=0.7, log_det="series", series=series).inverse_and_ladj(y)[1]
    assert (got - want).abs().mean() <= 0.1 * want.std() + 0.02


@pytest.mark.parametrize("log_det", ["exact", "series", "roulette"])
def test_the_bound_is_kept_by_an_optimiser(log_det: str) -> None:
    torch.manual_seed(5)
    series = LogDetSeries(terms=4)
    made = layer((2, 4, 4), fast="log_prob", log_det=log_det, series=series).train()
    optimizer = torch.optim.Adam(made.parameters(), 0.3)
    y = torch.randn(20, 2, 4, 4).double()
    for _ in range(5):
        optimizer.zero_grad()
        x, ladj = made.inverse_and_ladj(y)
        (x.square().flatten(1).sum(1) / 2 - ladj).mean().backward()
        optimizer.step()
        assert made.lipschitz_bound() <= 0.97 + 1e-12
        with torch.no_grad():
            back = made.forward_and_ladj(made.inverse_and_ladj(y)[0])[0]
        assert (back - y).abs().max() <= 1e-10


def test_many_numbers_invert_with_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """By iterated linear systems, and by factored ones, alike."""
    made = layer((2, 3, 2), lipschitz=0.8)
    x = torch.randn(3, 2, 3, 2).double().requires_grad_()
    leaves, found = [x, *made.parameters()], []
    weights = torch.randn(3, 2, 3, 2).double()
    for largest in (64, 0):
        monkeypatch.setattr(implicit, "_LARGEST_FACTORED", largest)
        back = made.inverse_and_ladj(made.forward_and_ladj(x)[0])[0]
        grads = torch.autograd.grad((weights * back).sum(), leaves, allow_unused=True)
        torch.testing.assert_close(grads[0], weights, rtol=0, atol=1e-9)
        assert all(grad.abs().max() <= 1e-9 for grad in grads[1:] if grad is not None)
        y = back.detach()
        found.append(
            torch.autograd.grad(made.forward_and_ladj(y)[0].sum(), leaves[1:], allow_unused=True)
        )
    for a, b in itertools.pairwise(found):
        for left, right in zip(a, b, strict=True):
            torch.testing.assert_close(left, right)


def test_power_iteration_moves_in_training_data_to_base_only() -> None:
    made = layer(norm="power").train()
    x = torch.randn(3, 2, 3, 2).double()

    def moves(run: Callable[[], object]) -> bool:
        before = [buffer.clone() for buffer in made.buffers()]
        run()
        return not all(map(torch.equal, before, made.buffers()))

    assert not made.reusable
    assert not moves(lambda: made.forward_and_ladj(x))
    assert moves(lambda: made.inverse_and_ladj(x))
    made.eval()
    assert made.reusable
    assert not moves(lambda: made.inverse_and_ladj(x))


def test_auto_goes_by_size() -> None:
    assert layer((4, 4, 4)).log_det._method(training=True) == "exact"
    assert layer((5, 4, 4)).log_det._method(training=True) == "roulette"
    assert layer((5, 4, 4)).log_det._method(training=False) == "exact"


def test_sizes_are_checked() -> None:
    for make, words in (
        (lambda: layer((2, 3)), "channels, height, width"),
        (lambda: layer(lipschitz=1.0), "inside"),
        (lambda: layer(lipschitz=-0.5), "inside"),
        (lambda: layer(kernel_sizes=(3, 1)), "3 convolutions"),
        (lambda: layer(norm="svd"), "norm"),
        (lambda: layer(activation="relu"), "activation"),
        (lambda: layer(fast="both"), "fast"),
        (lambda: layer().forward_and_ladj(torch.zeros(2, 2, 2, 3).double()), "expected shape"),
        (lambda: layer().forward_shape((5, 2, 3, 3)), "expected shape"),
        (lambda: LipschitzConvNet((2, 4, 4))(torch.zeros(2, 4, 3)), "image_shape"),
        (lambda: LipschitzConvNet((2, 4, 4), context_dim=2)(torch.zeros(2, 4, 4)), "no context"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
