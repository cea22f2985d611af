"""The invertible convolutions against dense matrices and torch's own convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pyro_nf import transforms as T  # noqa: N812

torch.set_num_threads(1)


def draws(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def dense(run, shape: tuple[int, ...]) -> Tensor:
    """The matrix of a linear map of images, from its Jacobian at 0."""
    size = torch.Size(shape).numel()
    zero = torch.zeros(shape, dtype=torch.float64)
    return torch.func.jacrev(run)(zero).reshape(size, size)


def randomized(layer: T.FlowTransform, scale: float = 0.5) -> T.FlowTransform:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.double().parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(scale * noise)
    return layer


# --- 1×1 convolutions -------------------------------------------------------------------------

WEIGHTS = ("plu", "qr", "plain")


def channel_matrix(layer: T.FlowTransform) -> Tensor:
    """What the layer does to the channels of one pixel."""
    return dense(layer, (layer.channels, 1, 1)).detach()


@pytest.mark.parametrize("channels", [1, 2, 5, 12])
def test_all_forms_start_at_one_rotation(channels: int) -> None:
    layers = [T.InvertibleConv1x1(channels, weight, seed=3) for weight in WEIGHTS]
    plu, qr, plain = [channel_matrix(layer.double()) for layer in layers]
    torch.testing.assert_close(plain @ plain.mT, torch.eye(channels).double(), atol=1e-5, rtol=0)
    assert torch.linalg.det(plain) > 0
    torch.testing.assert_close(plu, plain, atol=2e-6, rtol=0)
    torch.testing.assert_close(qr, plain, atol=2e-6, rtol=0)
    if channels > 1:
        other = T.InvertibleConv1x1(channels, "plain", seed=4)
        assert not torch.equal(other.mixing.weight, layers[2].mixing.weight)


@pytest.mark.parametrize("size", [(2, 3), (8, 9)], ids=str)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_conv1x1_is_its_matrix_at_every_pixel(weight: str, size: tuple[int, int]) -> None:
    layer = randomized(T.InvertibleConv1x1(4, weight))
    matrix, x = channel_matrix(layer), draws(5, 4, *size)
    y, ladj = layer.forward_and_ladj(x)
    torch.testing.assert_close(y, nn.functional.conv2d(x, matrix[:, :, None, None]))
    want = size[0] * size[1] * torch.linalg.slogdet(matrix)[1]
    torch.testing.assert_close(ladj, want.expand(5))
    torch.testing.assert_close(layer.inverse_and_ladj(y)[0], x)
    # The matrix itself as a parameter gives the same results.
    plain = T.InvertibleConv1x1(4, "plain").double()
    plain.mixing.weight.data.copy_(matrix)
    torch.testing.assert_close(plain.forward_and_ladj(x), (y, ladj))
    torch.testing.assert_close(plain.inverse_and_ladj(y), (x, -ladj))


@pytest.mark.parametrize("weight", WEIGHTS)
def test_conv1x1_without_a_seed_starts_at_the_identity(weight: str) -> None:
    x = draws(2, 4, 2, 2).float()
    y, ladj = T.InvertibleConv1x1(4, weight, seed=None).forward_and_ladj(x)
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(ladj, torch.zeros(2))


def test_each_context_has_its_own_matrix_and_all_its_images_share_it() -> None:
    layer = randomized(T.InvertibleConv1x1(3, context_dim=2))
    x, context = draws(4, 5, 3, 2, 2), draws(5, 2)
    y, ladj = layer.forward_and_ladj(x, context)
    for i in range(5):
        matrix = channel_matrix_at(layer, context[i])
        want = nn.functional.conv2d(x[:, i], matrix[:, :, None, None])
        torch.testing.assert_close(y[:, i], want)
        log_det = 4 * torch.linalg.slogdet(matrix)[1]
        torch.testing.assert_close(ladj[:, i], log_det.expand(4))
    torch.testing.assert_close(layer.inverse_and_ladj(y, context)[0], x)


def channel_matrix_at(layer: T.FlowTransform, context: Tensor) -> Tensor:
    return dense(lambda x: layer.forward_and_ladj(x, context)[0], (3, 1, 1)).detach()


def test_a_singular_plain_matrix_raises_or_gives_nan() -> None:
    layer, x = T.InvertibleConv1x1(2, "plain"), torch.ones(3, 2, 2, 2)
    # Exactly singular, and singular but for rounding.
    for matrix in ([[1.0, 2.0], [2.0, 4.0]], [[0.1, 0.3], [0.3, 0.9]], [[0.0, 0.0], [0.0, 0.0]]):
        layer.mixing.weight.data = torch.tensor(matrix)
        for run in (layer.forward_and_ladj, layer.inverse_and_ladj):
            with pytest.raises(torch.linalg.LinAlgError, match='weight="plain" that is singular'):
                run(x)
            torch.compiler.reset()
            _, ladj = torch.compile(run, fullgraph=True, backend="eager")(x)
            assert ladj.isnan().all()
            assert torch.vmap(run)(x)[1].isnan().all()
        assert torch.vmap(layer.inverse_and_ladj)(x)[0].isnan().all()
    layer.mixing.weight.data = torch.tensor([[1.0, 1.0], [1.0, 1.001]])  # ill-conditioned only
    torch.testing.assert_close(layer.inverse_and_ladj(layer(x))[0], x, atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    "scales",
    [([1.0, 1e-8], [1.0, 1.0]), ([1.0, 1.0], [1e-15, 1e10]), ([1e20, 1e-9], [1e-9, 1e9])],
    ids=["rows", "columns", "both"],
)
def test_channels_of_any_scale_are_not_singular(scales: tuple[list[float], list[float]]) -> None:
    layer, x = T.InvertibleConv1x1(2, "plain"), draws(3, 2, 2, 2).float()
    rows, columns = map(torch.tensor, scales)
    weight = rows[:, None] * torch.tensor([[1.0, 0.5], [-0.3, 0.8]]) * columns
    layer.mixing.weight.data = weight
    inverse = torch.linalg.inv(weight.double())
    want = torch.einsum("ij,njhw->nihw", inverse, x.double())
    got, ladj = layer.inverse_and_ladj(x)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=0)
    log_det = -4 * torch.linalg.slogdet(weight.double())[1]
    torch.testing.assert_close(ladj.double(), log_det.expand(3), rtol=1e-5, atol=1e-4)
    (grad,) = torch.autograd.grad(layer.forward_and_ladj(x)[1].sum(), layer.mixing.weight)
    torch.testing.assert_close(grad.double(), 12 * inverse.mT, rtol=1e-4, atol=0)


def test_bad_convolutions_are_refused() -> None:
    with pytest.raises(ValueError, match="weight='lu'. Pass one of 'plu', 'qr', 'plain'"):
        T.InvertibleConv1x1(3, "lu")
    with pytest.raises(ValueError, match="InvertibleConv1x1 got channels=0"):
        T.InvertibleConv1x1(0)
    with pytest.raises(ValueError, match=r"expected shape \(\*batch, 3, height, width\)"):
        T.InvertibleConv1x1(3)(torch.zeros(5, 4, 2, 2))
    with pytest.raises(TypeError, match=r"parameters of dtype torch.float32 and got x of dtype"):
        T.InvertibleConv1x1(3)(torch.zeros(5, 3, 2, 2).double())
    with pytest.raises(TypeError, match="got x of dtype torch.int64. Pass floating numbers"):
        T.EmergingConv2d(3)(torch.zeros(5, 3, 2, 2).long())
    with pytest.raises(ValueError, match="built without context"):
        T.PeriodicConv2d(3).forward_and_ladj(torch.zeros(5, 3, 4, 4), torch.zeros(2))
    with pytest.raises(ValueError, match="do not broadcast"):
        T.InvertibleConv1x1(3, context_dim=2).forward_and_ladj(
            torch.zeros(5, 3, 2, 2), torch.zeros(4, 2)
        )


# --- convolutions of k×k ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel_size", "size"), [(3, (3, 4)), (5, (4, 3)), (7, (2, 5)), (3, (1, 1))]
)
def test_emerging_is_a_product_of_block_triangular_matrices(kernel_size, size) -> None:
    layer = randomized(T.EmergingConv2d(2, kernel_size))
    x = draws(3, 2, *size)
    y, ladj = layer.forward_and_ladj(x)
    matrix = dense(layer, (2, *size)).detach()
    torch.testing.assert_close(y.flatten(1), x.flatten(1) @ matrix.mT)
    torch.testing.assert_close(ladj, torch.linalg.slogdet(matrix)[1].expand(3))
    torch.testing.assert_close(layer.inverse_and_ladj(y)[0], x)
    # The first half, pixel by pixel in raster order, the channels within.
    pixels = size[0] * size[1]
    zero = layer.second_taps.new_zeros(())
    with torch.no_grad():
        layer.second_taps.mul_(zero)
        layer.factors.copy_(layer.factors.tril(-1))
    order = torch.arange(2 * pixels).view(2, pixels).mT.flatten()
    half = dense(layer, (2, *size)).detach()[order][:, order]
    torch.testing.assert_close(half, half.tril())
    torch.testing.assert_close(half.diagonal(), torch.ones(2 * pixels, dtype=torch.float64))
    torch.testing.assert_close(dense(layer.inv, (2, *size))[order][:, order], half.inverse())


def test_emerging_reads_every_pixel_of_its_kernel() -> None:
    layer = randomized(T.EmergingConv2d(1))
    x = torch.zeros(1, 5, 5, dtype=torch.float64)
    x[0, 2, 2] = 1
    read = layer(x)[0] != 0
    assert read[1:4, 1:4].all()
    assert read.sum() == 9
    y = layer(torch.nn.functional.pad(x, (1, 1, 1, 1)))  # the same at another place
    torch.testing.assert_close(y[0, 1:-1, 1:-1], layer(x.clone())[0])


@pytest.mark.parametrize("mode", ["once", "mapped"])
def test_the_gradient_of_the_substitution_is_that_of_its_steps(mode: str) -> None:
    layer = randomized(T.EmergingConv2d(1, 5))
    y = draws(2, 1, 2, 4).requires_grad_()
    leaves = [y, *layer.parameters()]
    if mode == "once":
        assert torch.autograd.gradcheck(lambda *_: layer.inverse_and_ladj(y), leaves)
        assert torch.autograd.gradgradcheck(lambda *_: layer.inverse_and_ladj(y)[0], leaves)
        return
    x = layer.inverse_and_ladj(y)[0]
    weights = draws(4, *x.shape)
    mapped = torch.autograd.grad(x, leaves, weights, is_grads_batched=True, retain_graph=True)
    for i in range(4):
        alone = torch.autograd.grad(x, leaves, weights[i], retain_graph=True)
        for got, want in zip(mapped, alone, strict=True):
            torch.testing.assert_close(got[i], want)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_bad_kernels_of_emerging_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"kernel_size={size}. Pass an odd number from 3 on"):
        T.EmergingConv2d(3, size)


@pytest.mark.parametrize("size", [(3, 3), (4, 5), (5, 4), (6, 6)], ids=str)
@pytest.mark.parametrize("kernel_size", [1, 2, 3])
def test_periodic_is_torchs_circular_convolution(kernel_size, size) -> None:
    layer = randomized(T.PeriodicConv2d(2, kernel_size))
    x = draws(3, 2, *size)
    y, ladj = layer.forward_and_ladj(x)
    before = (kernel_size - 1) // 2
    after = kernel_size - 1 - before
    padded = nn.functional.pad(x, (before, after, before, after), mode="circular")
    torch.testing.assert_close(y, nn.functional.conv2d(padded, layer.weight))
    matrix = dense(layer, (2, *size)).detach()
    torch.testing.assert_close(ladj, torch.linalg.slogdet(matrix)[1].expand(3))
    back, back_ladj = layer.inverse_and_ladj(y)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(back_ladj, -ladj)


def test_periodic_starts_at_the_identity_or_a_rotation() -> None:
    x = draws(3, 4, 5, 5).float()
    torch.testing.assert_close(T.PeriodicConv2d(4)(x), x)
    rotated = T.PeriodicConv2d(4, seed=2)(x)
    torch.testing.assert_close(rotated, T.InvertibleConv1x1(4, seed=2)(x), atol=1e-5, rtol=0)


def test_a_singular_frequency_raises_or_gives_nan() -> None:
    layer, x = T.PeriodicConv2d(1), torch.ones(3, 1, 4, 4)
    with torch.no_grad():  # differences have no constant part
        layer.weight.copy_(torch.tensor([[0.0, 0, 0], [0, 1, -1], [0, 0, 0]]))
    for run in (layer.forward_and_ladj, layer.inverse_and_ladj):
        with pytest.raises(torch.linalg.LinAlgError, match="a frequency that is singular"):
            run(x)
        assert torch.vmap(run)(x)[1].isnan().all()
    assert torch.vmap(layer.inverse_and_ladj)(x)[0].isnan().all()


def test_a_periodic_kernel_larger_than_the_image_is_refused() -> None:
    layer = T.PeriodicConv2d(2, 5)
    for call in (layer.forward_shape, layer.inverse_shape):
        with pytest.raises(ValueError, match=r"kernel_size=5\) got . of 6×4 pixels.*of 4 or less"):
            call((3, 2, 6, 4))
    with pytest.raises(ValueError, match="kernel_size=0"):
        T.PeriodicConv2d(2, 0)
