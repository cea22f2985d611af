"""Invertible 1×1 convolutions: those of torch, any batch, contexts."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_nf import transforms as T  # noqa: N812

torch.set_num_threads(1)


def randomized(layer: T.GeneralizedChannelPermute, scale: float) -> T.GeneralizedChannelPermute:
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.double().parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(scale * noise)
    return layer


def draws(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def weights_of(layer: T.GeneralizedChannelPermute) -> Tensor:
    """The matrix of the channels, row i from what channel j alone gives."""
    eye = torch.eye(layer.channels, dtype=torch.float64)[..., None, None]
    return layer(eye)[..., 0, 0].mT.detach()


@pytest.mark.parametrize("batch", [(), (0,), (1,), (5,), (2, 5)], ids=str)
def test_channel_permute_is_a_convolution(batch: tuple[int, ...]) -> None:
    layer = randomized(T.GeneralizedChannelPermute(3, seed=0), 1.0)
    x = draws(*batch, 3, 4, 2)
    y, ladj = layer.forward_and_ladj(x)
    kernel = weights_of(layer)[:, :, None, None]
    want = nn.functional.conv2d(x.reshape(-1, 3, 4, 2), kernel).reshape(x.shape)
    torch.testing.assert_close(y, want)
    assert ladj.shape == batch
    torch.testing.assert_close(ladj, 8 * torch.linalg.slogdet(kernel[..., 0, 0])[1].expand(batch))
    back, back_ladj = layer.inverse_and_ladj(y)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(back_ladj, -ladj)


@pytest.mark.parametrize("batch", [(), (5,), (1,), (2, 5)], ids=str)
def test_channel_permute_meets_contexts_aligned_right(batch: tuple[int, ...]) -> None:
    layer = randomized(T.GeneralizedChannelPermute(3, context_dim=2), 0.4)
    x, context = draws(*batch, 3, 4, 6), draws(5, 2, seed=8)
    y, ladj = layer.forward_and_ladj(x, context)
    full = torch.broadcast_shapes(batch, (5,))
    assert y.shape == (*full, 3, 4, 6)
    assert ladj.shape == full
    each = x.expand(*full, 3, 4, 6)[..., 2, :, :, :]
    row_y, row_ladj = layer.forward_and_ladj(each, context[2])
    torch.testing.assert_close(y[..., 2, :, :, :], row_y)
    torch.testing.assert_close(ladj[..., 2], row_ladj)
    bound = layer.condition(context)
    assert bound.forward_shape(x.shape) == y.shape
    base = dist.Normal(torch.zeros(3, 4, 6, dtype=torch.float64), 1.0).to_event(3)
    conditioned = dist.ConditionalTransformedDistribution(base, [layer]).condition(context)
    assert conditioned.sample((7,)).shape == (7, 5, 3, 4, 6)
    assert conditioned.log_prob(y).shape == full


def test_refuses_bad_images() -> None:
    layer = T.GeneralizedChannelPermute(3, context_dim=2)
    for shape in ((5, 4, 8, 8), (3, 8)):
        with pytest.raises(ValueError, match=r"expected shape \(\*batch, 3, height, width\)"):
            layer.forward_and_ladj(torch.zeros(shape), torch.zeros(2))
    with pytest.raises(ValueError, match="got no context"):
        layer.forward_and_ladj(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="channels=0"):
        T.GeneralizedChannelPermute(0)
