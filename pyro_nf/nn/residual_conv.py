"""A residual convolutional network, Real NVP's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from pyro_nf._checks import non_negative_int, positive_int
from pyro_nf.nn._activations import Activation, make_activations
from pyro_nf.nn._conditions import (
    ConditionedConv,
    Conditions,
    ContextSize,
    context_size,
    same_conv,
)
from pyro_nf.nn._image_network import ImageNetwork, odd_size


class ResidualConvNet(ImageNetwork):
    r"""A residual network of images, ``(*batch, C_in, H, W)`` to ``(*batch, C_out, H, W)``.

    .. math::
        h_0 = K_0 * x + b_0, \qquad
        h_i = h_{i-1} + K'_i * a\big(K_i * a(h_{i-1}) + b_i\big) + b'_i, \qquad
        \text{output} = K * a(h) + b

    with convolutions that keep the image's size, zeros beyond its border; the output's kernel is
    1×1. This is Real NVP's network without its batch normalisation, because what a flow says of
    an image may not depend on the other images of the batch. What that was for, an even size of
    activations and gradients at any depth, comes from the start instead: every :math:`K'_i` and
    :math:`b'_i` is 0, so a fresh network is as deep as its first and last layer, whatever the
    number of blocks, and the blocks grow in from there.

    The context enters the opening convolution and the first one of every block, as in
    :class:`ConvNet`: a scale and a shift of the channels, of a vector the same for all pixels, of
    a feature map images.

    The weights know nothing of height and width: one network serves images of any size. A fresh
    network returns exactly 0 (unless ``zero_init=False``) and ignores its context.

    Cost: two convolutions a block, in the channels-last layout.

    Args:
        input_channels: Channels of x.
        output_channels: Channels of the output.
        hidden_channels: Channels of all hidden layers.
        blocks: Number of residual blocks.
        kernel_size: Odd side length in pixels of all convolutions but the last.
        context_dim: Length of a context that is a vector; 0 for none.
        context_shape: ``(channels, height, width)`` of a context that is a feature map, given
            flattened: ``context_dim`` is then their product.
        activation: A name, elementwise function or module, as for :class:`~pyro_nf.nn.MLP`.
        zero_init: Whether the last layer starts at 0.

    Raises:
        ValueError: If a size is out of range, the kernel's even, or the activation's name unknown.
        TypeError: If a size is no integer or the activation is none.

    References:
        - Density estimation using Real NVP (Dinh et al., 2016), arXiv:1605.08803.
        - Identity Mappings in Deep Residual Networks (He et al., 2016), arXiv:1603.05027 (the
          order within a block).
        - Fixup Initialization: Residual Learning Without Normalization (Zhang et al., 2019),
          arXiv:1901.09321 (blocks that start at 0).

    Examples:
        >>> import torch
        >>> network = ResidualConvNet(3, 6, 16, context_shape=(2, 4, 3))
        >>> network(torch.randn(5, 3, 8, 6), torch.randn(5, 24)).shape
        torch.Size([5, 6, 8, 6])
    """

    def __init__(
        self,
        input_channels: int,
        output_channels: int,
        hidden_channels: int = 64,
        *,
        blocks: int = 2,
        kernel_size: int = 3,
        context_dim: int = 0,
        context_shape: Sequence[int] | None = None,
        activation: Activation = "relu",
        zero_init: bool = True,
    ) -> None:
        owner = "ResidualConvNet"
        size = context_size(owner, context_dim, context_shape)
        super().__init__(input_channels, output_channels, size)
        self.hidden_channels = positive_int(owner, "hidden_channels", hidden_channels)
        non_negative_int(owner, "blocks", blocks)
        self.kernel_size = odd_size(owner, "kernel_size", kernel_size)
        self.opening = ConditionedConv(input_channels, hidden_channels, kernel_size, size)
        self.blocks = nn.ModuleList(
            ResidualBlock(
                hidden_channels, kernel_size, size, make_activations(owner, activation, 2)
            )
            for _ in range(blocks)
        )
        (self.activation,) = make_activations(owner, activation, 1)
        self.output = same_conv(hidden_channels, output_channels, 1, zero_init=zero_init)

    def _evaluate(self, x: Tensor, conditions: Conditions | None) -> Tensor:
        h = self.opening(x, conditions)
        for block in self.blocks:
            h = block(h, conditions)
        return cast("Tensor", self.output(self.activation(h)))


class ResidualBlock(nn.Module):
    """Two convolutions, each after an activation, whose result is added to what they read.

    Args:
        channels: Channels of the images.
        kernel_size: Odd side length, in pixels.
        context: The size of the context.
        activations: Of the two convolutions.
    """

    def __init__(
        self, channels: int, kernel_size: int, context: ContextSize, activations: nn.ModuleList
    ) -> None:
        super().__init__()
        self.activations = activations
        self.first = ConditionedConv(channels, channels, kernel_size, context)
        self.second = same_conv(channels, channels, kernel_size, zero_init=True)

    def forward(self, h: Tensor, conditions: Conditions | None) -> Tensor:
        """Maps h ``(N, channels, H, W)`` to the same shape."""
        before, between = self.activations
        change = self.second(between(self.first(before(h), conditions)))
        return cast("Tensor", h + change)
