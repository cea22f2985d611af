"""Reorderings and normalisation of images, against hand-made examples and torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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


# --- reorderings ------------------------------------------------------------------------------


def test_squeeze_by_hand() -> None:
    x = torch.arange(16.0).view(1, 4, 4)
    want = torch.tensor(
        [
            [[0.0, 2.0], [8.0, 10.0]],
            [[1.0, 3.0], [9.0, 11.0]],
            [[4.0, 6.0], [12.0, 14.0]],
            [[5.0, 7.0], [13.0, 15.0]],
        ]
    )
    assert torch.equal(T.Squeeze()(x), want)
    assert torch.equal(T.Unsqueeze()(want), x)
    assert torch.equal(T.Squeeze().inv(want), x)


@settings(deadline=None, max_examples=30)
@given(
    batch=st.lists(st.integers(0, 3), max_size=2),
    channels=st.integers(1, 3),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    factor=st.integers(1, 3),
)
def test_squeeze_is_torchs(batch, channels, height, width, factor) -> None:
    shape = (*batch, channels, factor * height, factor * width)
    x = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    squeeze, unsqueeze = T.Squeeze(factor), T.Unsqueeze(factor)
    y, ladj = squeeze.forward_and_ladj(x)
    assert y.shape == squeeze.forward_shape(x.shape) == unsqueeze.inverse_shape(x.shape)
    if x.numel():  # torch leaves the shape of an empty batch as it is
        assert torch.equal(y, nn.functional.pixel_unshuffle(x, factor))
    assert torch.equal(squeeze.inverse_and_ladj(y)[0], x)
    assert torch.equal(unsqueeze.forward_and_ladj(y)[0], x)
    assert torch.equal(unsqueeze.inverse_and_ladj(x)[0], y)
    assert ladj.shape == torch.Size(batch)
    assert not ladj.any()


def test_what_cannot_be_squeezed_is_refused() -> None:
    for call in (T.Squeeze().forward_shape, T.Unsqueeze().inverse_shape):
        with pytest.raises(ValueError, match=r"height 5 or width 4 is no multiple of 2.*6×4"):
            call((3, 1, 5, 4))
    for call in (T.Squeeze(3).inverse_shape, T.Unsqueeze(3).forward_shape):
        with pytest.raises(ValueError, match=r"10 channels are no multiple of 9.*18 channels"):
            call((10, 2, 2))
    with pytest.raises(ValueError, match="no multiple of 2"):
        T.Squeeze().forward_and_ladj(torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match="expected shape"):
        T.Squeeze()(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="no multiple of 4"):
        T.HaarDownsampling().inverse_and_ladj(torch.zeros(6, 4, 4))
    with pytest.raises(ValueError, match="factor=0"):
        T.Squeeze(0)
    with pytest.raises(TypeError, match="factor=2.0"):
        T.Unsqueeze(2.0)
    with pytest.raises(ValueError, match="built without context"):
        T.Squeeze().forward_and_ladj(torch.zeros(1, 4, 4), torch.zeros(2))


def test_haar_is_orthonormal_and_parts_coarse_from_fine() -> None:
    layer = T.HaarDownsampling()
    matrix = dense(layer, (2, 4, 6))
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(48, dtype=torch.float64))
    x = draws(3, 2, 4, 6)
    y = layer(x)
    torch.testing.assert_close(y[:, :2], 2 * nn.functional.avg_pool2d(x, 2))
    a, b, c, d = x[:, 1, 0, 0], x[:, 1, 0, 1], x[:, 1, 1, 0], x[:, 1, 1, 1]
    want = torch.stack([a - b + c - d, a + b - c - d, a - b - c + d], -1) / 2
    torch.testing.assert_close(y[:, 3::2, 0, 0], want)
    torch.testing.assert_close(layer.inv(y.clone()), x)


@settings(deadline=None, max_examples=30)
@given(
    shape=st.lists(st.integers(1, 4), max_size=3),
    batch=st.lists(st.integers(0, 3), max_size=2),
    pieces=st.integers(1, 3),
)
def test_reshape_keeps_the_order(shape, batch, pieces) -> None:
    before, after = (*shape, pieces), (pieces, torch.Size(shape).numel())
    layer = T.Reshape(before, after)
    x = torch.arange(float(torch.Size((*batch, *before)).numel())).reshape(*batch, *before)
    y, ladj = layer.forward_and_ladj(x)
    assert y.shape == layer.forward_shape(x.shape) == (*batch, *after)
    assert layer.inverse_shape(y.shape) == x.shape
    assert ladj.shape == torch.Size(batch)
    assert torch.equal(y.flatten(), x.flatten())
    assert torch.equal(layer.inverse_and_ladj(y)[0], x)
    assert (layer.domain.event_dim, layer.codomain.event_dim) == (len(before), 2)


def test_flatten_is_a_reshape_of_images() -> None:
    layer = T.Compose([T.Flatten((1, 2, 2)).inv, T.Squeeze(), T.Flatten((4, 1, 1))])
    x = draws(5, 4)
    y, ladj = layer.forward_and_ladj(x)
    assert torch.equal(y, x)
    assert ladj.shape == (5,)
    assert repr(T.Flatten((1, 2, 2))) == "Flatten((1, 2, 2))"


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"of 6 numbers and out_shape=.* of 8"):
        T.Reshape((6,), (2, 2, 2))
    with pytest.raises(TypeError, match="in_shape=6"):
        T.Reshape(6, (6,))
    with pytest.raises(ValueError, match=r"image_shape\[1\]=0"):
        T.Flatten((2, 0, 3))
    with pytest.raises(ValueError, match=r"got x of shape \(5, 4\); expected shape \(\*batch, 6"):
        T.Reshape((6,), (3, 2))(torch.zeros(5, 4))
    with pytest.raises(ValueError, match=r"got y of shape \(6,\); expected shape \(\*batch, 3, 2"):
        T.Reshape((6,), (3, 2)).inverse_and_ladj(torch.zeros(6))


# --- normalisation ----------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(40,), (2, 20), ()], ids=str)
def test_actnorm_standardises_channels(batch: tuple[int, ...]) -> None:
    unit = torch.tensor([1.0, 1e-2, 30.0]).view(3, 1, 1)
    data = 1e3 * unit + unit * draws(*batch, 3, 4, 5).float()
    layer = T.ActNorm2d(3)
    x = layer.initialize(data)
    assert not x.requires_grad
    columns = x.movedim(-3, 0).flatten(1)
    torch.testing.assert_close(columns.mean(1), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(columns.std(1), torch.ones(3), rtol=0, atol=1e-4)
    assert torch.equal(x, layer.inverse_and_ladj(data)[0])
    want = 20 * columns.new_tensor(layer.log_scale.tolist()).sum()
    torch.testing.assert_close(layer.forward_and_ladj(x)[1], want.expand(batch))


def test_only_the_first_initialize_of_actnorm_counts() -> None:
    layer, other = T.ActNorm2d(2), T.ActNorm2d(2)
    layer.initialize(5 + 3 * draws(10, 2, 4, 4).float())
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.initialize(draws(10, 2, 4, 4).float())
    other.load_state_dict(before)
    other.initialize(draws(10, 2, 4, 4).float())
    for name, value in before.items():
        assert torch.equal(layer.state_dict()[name], value)
        assert torch.equal(other.state_dict()[name], value)


def test_actnorm_keeps_a_constant_channel_and_refuses_bad_data() -> None:
    data = draws(6, 2, 3, 3).float()
    data[:, 1] = 0.7
    layer = T.ActNorm2d(2)
    layer.initialize(data)
    assert layer.log_scale[1] == 0
    data[0, 1, 2, 2] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity in channel 1. Remove such images"):
        T.ActNorm2d(2).initialize(data)
    with pytest.raises(ValueError, match=r"data with 1 image\. Pass at least two"):
        T.ActNorm2d(2).initialize(torch.zeros(1, 2, 1, 1))
    with pytest.raises(ValueError, match="data with 0 images"):
        T.ActNorm2d(2).initialize(torch.zeros(0, 2, 3, 3))
    with pytest.raises(ValueError, match=r"expected shape \(\*batch, 2, height, width\)"):
        T.ActNorm2d(2).initialize(torch.zeros(5, 3, 3, 3))
