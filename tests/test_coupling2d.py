"""Couplings of images: masks, their gradient in one node, networks of the user's own."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from cases import perturb
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pyro_nf import flows
from pyro_nf.bijections import Additive, Affine, CircularSpline, RationalQuadraticSpline
from pyro_nf.nn import ConvNet, ResidualConvNet
from pyro_nf.transforms import (
    Compose,
    Coupling2d,
    EmergingConv2d,
    Logit,
    MultiLevel,
    PeriodicConv2d,
    Reshape,
    Squeeze,
    Unsqueeze,
)
from pyro_nf.transforms._images.partition import ChannelHalves, Checkerboard

NETWORK = partial(ConvNet, hidden_channels=(5,), activation="silu")


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.sampled_from([0, 1]), st.booleans()
)
def test_partitions(height: int, width: int, channels: int, parity: Any, board: bool) -> None:  # noqa: FBT001
    if not board and channels < 2:
        return
    parts = (Checkerboard if board else ChannelHalves)(channels, parity)
    pixels = torch.arange(1.0, 2 * height * width * channels + 1)
    pixels = pixels.reshape(2, height, width, channels)
    read, moved = parts.read(pixels), parts.moved(pixels)
    if board:  # by the definition of a board
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        kept = ((rows + columns + parity) % 2 == 0)[..., None]
        assert torch.equal(read, pixels * kept)
        assert torch.equal(moved.flatten(1).sort().values, _nonzero(pixels * ~kept))
    else:
        assert read.shape[-1] == parts.read_channels == channels // 2
        assert torch.equal(torch.cat([read, moved], -1).sort().values, pixels)
    assert torch.equal(parts.join(pixels, moved), pixels)
    changed = parts.join(pixels, -moved)
    assert torch.equal(changed.abs(), pixels)
    assert torch.equal(parts.moved(changed), -moved)
    assert torch.equal(parts.read(changed), read)
    made = pixels if board else torch.ones(2, height, width, 3)
    if board:
        assert torch.equal(parts.put(parts.pick(made), pixels), pixels - read)
    else:
        assert torch.equal(parts.put(parts.pick(made), pixels), made)


def _nonzero(image: Tensor) -> Tensor:
    return torch.stack([row[row != 0] for row in image.flatten(1)])


@pytest.mark.parametrize("mask", ["channels", "checkerboard"])
@pytest.mark.parametrize("bijection", [Affine(), RationalQuadraticSpline(bins=3)], ids=str)
@pytest.mark.parametrize("width", [3, 4])
def test_the_one_node_has_the_gradients_of_the_operations(
    mask: Any, bijection: Any, width: int
) -> None:
    layer = Coupling2d(bijection, 3, mask=mask, parity=1, network=NETWORK).double()
    perturb(layer, 0.5)
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(4, 3, 3, width, dtype=torch.float64, requires_grad=True)
    for run in (layer.forward_and_ladj, layer.inverse_and_ladj):

        def loss(x: Tensor, *values: Tensor, run: Any = run) -> Tensor:
            call = dict(zip(names, values, strict=True))
            y, ladj = torch.func.functional_call(_Call(layer, run.__name__), _nested(call), (x,))
            return y.sin().sum() + ladj.cos().sum()

        leaves = [x, *layer.parameters()]
        y, ladj = run(x)
        got = torch.autograd.grad(y.sin().sum() + ladj.cos().sum(), leaves)
        # torch.func takes the plain operations.
        want = torch.func.grad(loss, argnums=tuple(range(len(leaves))))(*leaves)
        for mine, its in zip(got, want, strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-12)


class _Call(nn.Module):
    def __init__(self, layer: Coupling2d, method: str) -> None:
        super().__init__()
        self.layer, self.method = layer, method

    def forward(self, x: Tensor) -> Any:
        return getattr(self.layer, self.method)(x)


def _nested(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"layer.{name}": value for name, value in values.items()}


def test_the_kept_half_is_kept_and_the_moved_one_depends_on_it() -> None:
    layer = Coupling2d(Affine(), 2, mask="checkerboard", network=NETWORK).double()
    perturb(layer, 0.5)
    x = torch.randn(2, 4, 4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v), x).reshape(32, 32)
    board = torch.zeros(2, 4, 4, dtype=torch.bool)
    board[:, ::2, ::2] = board[:, 1::2, 1::2] = True  # kept
    kept = board.flatten()
    assert torch.equal(jacobian[kept][:, kept], torch.eye(16, dtype=torch.float64))
    assert not jacobian[kept][:, ~kept].any()
    moved = jacobian[~kept][:, ~kept]
    assert torch.equal(moved, moved.diagonal().diag())
    assert (jacobian[~kept][:, kept].abs() > 1e-6).any(1).all()


def test_a_network_of_ones_own() -> None:
    def own(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, 7, 1), nn.Tanh(), nn.Conv2d(7, outputs, 1))

    layer = Coupling2d(Affine(), 4, network=own)
    x = torch.randn(2, 5, 4, 3, 3)
    y, ladj = layer.forward_and_ladj(x)
    torch.testing.assert_close(layer.inverse_and_ladj(y)[0], x)
    assert ladj.shape == (2, 5)
    residual = Coupling2d(Affine(), 4, network=partial(ResidualConvNet, context_dim=2))
    assert residual.context_dim == 2


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Coupling2d(Affine(), 1), ValueError, r"channels=1.*needs two halves.*Squeeze"),
        (lambda: Coupling2d(Affine(), 2, mask="half"), ValueError, "got mask='half'. Pass one of"),
        (lambda: Coupling2d(Affine(), 2, parity=2), ValueError, "got parity=2. Pass 0 or 1"),
        (lambda: Coupling2d(Affine, 2), TypeError, "Pass an instance"),
        (lambda: Coupling2d(CircularSpline(), 2), TypeError, "Pass one of the real line"),
        (lambda: Coupling2d(Affine(), 2, network=lambda i, o: i), TypeError, "makes int"),
        (
            lambda: Coupling2d(Affine(), 2, network=ConvNet(1, 2)),
            TypeError,
            "of type ConvNet.*Pas",
        ),
        (lambda: Coupling2d(Affine(), 2, network="conv"), TypeError, "of type str.*Pass a func"),
        (
            lambda: MultiLevel((1, 4, 4), [[Unsqueeze()], []], prior=ConvNet(2, 4)),
            TypeError,
            "network of type ConvNet",
        ),
        (lambda: MultiLevel((1, 4), [[Unsqueeze()]]), ValueError, r"Pass \(channels, height"),
        (lambda: MultiLevel((1, 4, 4), []), ValueError, "got no levels"),
        (lambda: MultiLevel((1, 4, 4), Unsqueeze()), TypeError, "levels of type Unsqueeze"),
        (
            lambda: MultiLevel((1, 4, 4), [[Reshape((16,), (1, 4, 4))]]),
            ValueError,
            r"base side of shape \(16,\), which is no image",
        ),
        (lambda: MultiLevel((1, 4, 4), [[Logit().inv]]), ValueError, "one of the real line"),
        (
            lambda: MultiLevel((1, 4, 4), [[Compose([])], [Unsqueeze()]]),
            ValueError,
            r"level 0 with base side of shape \(1, 4, 4\), which cannot be parted",
        ),
        (lambda: MultiLevel((1, 5, 4), [[Unsqueeze()]]), ValueError, "5"),
        (lambda: flows.glow((1, 7, 8)), ValueError, r"7 × 8 pixels, which can be halved 0 times"),
        (
            lambda: flows.glow((1, 8, 8), levels=4),
            ValueError,
            r"halved 3 times, for 4 level.*levels=3",
        ),
        (lambda: flows.glow((8, 8)), ValueError, r"Pass \(channels, height, width\)"),
        (lambda: flows.glow(8), TypeError, r"got image_shape=8. Pass \(channels"),
        (lambda: flows.glow((0, 8, 8)), ValueError, r"image_shape\[0\]=0"),
        (lambda: flows.realnvp((1, 8, 8), hidden_dims=(4, 5)), ValueError, "of one width"),
        (lambda: flows.realnvp((1, 8, 8), mask="random"), ValueError, "mask='random' for images"),
        (lambda: flows.realnvp(3, levels=2), ValueError, "got levels=2 for vectors"),
        (lambda: flows.cnf((1, 8, 8), gain=2.0), ValueError, "got gain=2.0 for images"),
        (
            lambda: flows.glow((1, 8, 8), context_dim=3, context_shape=(1, 2, 2)),
            ValueError,
            "glow got context_dim=3.*Leave context_dim out",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(build: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_what_does_not_fit_is_refused_before_the_first_convolution() -> None:
    class Never(nn.Module):
        context_dim = 3

        def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            raise AssertionError("reached the network")

    layer = Coupling2d(Affine(), 4, network=lambda i, o: Never())
    x, context = torch.randn(5, 4, 6, 6), torch.randn(5, 3)
    with pytest.raises(ValueError, match=r"channels=4\) got x of shape \(5, 3, 6, 6\)"):
        layer.forward_and_ladj(x[:, :3], context)
    with pytest.raises(ValueError, match=r"expected shape \(\*batch, 3\)"):
        layer.forward_and_ladj(x, context[:, :2])
    with pytest.raises(ValueError, match="got no context"):
        layer.inverse_and_ladj(x)
    with pytest.raises(ValueError, match="do not broadcast"):
        layer.forward_and_ladj(x, context[:2])
    with pytest.raises(TypeError, match="dtype torch.int64"):
        layer.forward_and_ladj(x.long(), context)
    chain = Compose([Squeeze(), Coupling2d(Affine(), 4, network=lambda i, o: Never())])
    with pytest.raises(ValueError, match="5"):
        chain.forward_and_ladj(torch.randn(2, 1, 5, 6), context[:2])


@pytest.mark.parametrize(
    ("network", "got"),
    [
        (lambda i, o: ConvNet(i, o + 1), r"shape \(5, 5, 6, 6\)"),
        (lambda i, o: nn.Conv2d(i, o, 3), r"shape \(5, 4, 4, 4\)"),
        (lambda i, o: nn.Flatten(), r"shape \(5, 72\)"),
        (lambda i, o: nn.Sequential(nn.Flatten(2), nn.LSTM(36, 2)), "tuple"),
    ],
    ids=["channels", "pixels", "rank", "tuple"],
)
def test_a_network_whose_output_does_not_fit_is_refused(network: Any, got: str) -> None:
    layer, x = Coupling2d(Affine(), 4, network=network), torch.randn(5, 4, 6, 6)
    for run in (layer.forward_and_ladj, layer.inverse_and_ladj):
        with pytest.raises(ValueError, match=rf"{got} from.*expected shape \(5, 4, 6, 6\)"):
            run(x)


def test_a_conditional_network_whose_output_does_not_fit_is_refused() -> None:
    layer = Coupling2d(Affine(), 4, network=lambda i, o: ConvNet(i, o + 1, context_dim=2))
    with pytest.raises(ValueError, match=r"expected shape \(3, 5, 4, 6, 6\)"):
        layer.forward_and_ladj(torch.randn(3, 5, 4, 6, 6), torch.randn(5, 2))


@pytest.mark.parametrize("shape", [(3, 2, 0, 2), (3, 2, 2, 0)], ids=str)
def test_images_without_a_pixel_are_refused(shape: tuple[int, ...]) -> None:
    for layer in (Coupling2d(Affine(), 2), EmergingConv2d(2), PeriodicConv2d(2)):
        for run in (layer.forward_and_ladj, layer.inverse_and_ladj):
            with pytest.raises(ValueError, match=r"\(3, 2, ., .\), images without a pixel"):
                run(torch.zeros(shape))


def test_parities_of_an_odd_number_of_channels() -> None:
    x = torch.randn(5, 3, 2, 2)
    for parity, moved in ((0, [False, True, True]), (1, [True, True, False])):
        layer = Coupling2d(Affine(), 3, parity=parity, network=NETWORK)
        perturb(layer, 1.0)
        changed = (layer.forward_and_ladj(x)[0] != x).flatten(2).any(2).any(0)
        assert changed.tolist() == moved


def test_additive_couplings_keep_volumes() -> None:
    layer = Coupling2d(Additive(), 2, network=NETWORK)
    perturb(layer, 1.0)
    assert not layer.forward_and_ladj(torch.randn(3, 2, 4, 4))[1].any()
