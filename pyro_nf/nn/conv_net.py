"""A plain convolutional network, Glow's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from pyro_nf._checks import hidden_sizes
from pyro_nf.nn._activations import Activation, make_activations
from pyro_nf.nn._conditions import ConditionedConv, Conditions, ContextSize, context_size
from pyro_nf.nn._image_network import ImageNetwork, odd_sizes


class ConvNet(ImageNetwork):
    r"""A convolutional network, ``(*batch, C_in, H, W)`` to ``(*batch, C_out, H, W)``.

    .. math::
        h_i = a\big((K_i * h_{i-1} + b_i) \odot s_i(c) + t_i(c)\big), \qquad
        \text{output} = K * h + b

    where * is a convolution that keeps the image's size, zeros beyond its border. Glow's network
    has the default two hidden layers and kernels of 3×3, 1×1 and 3×3; its are 512 channels wide.

    The context enters every hidden layer (the output, if there is none) as a scale s and a shift
    t of the channels. Of a vector they are affine in c and the same for all pixels. Of a feature
    map, given flattened, they are images: the map is brought to the network's height and width (a
    pixel is the mean of what it covers) and convolved by each layer with kernels of 3×3. Either
    is computed once for each row of the context, however much larger the batch of x.

    The weights know nothing of height and width: one network serves images of any size. A fresh
    network returns exactly 0 (unless ``zero_init=False``) and ignores its context.

    Cost: a convolution a layer, in the channels-last layout.

    Args:
        input_channels: Channels of x.
        output_channels: Channels of the output.
        hidden_channels: Channels of the hidden layers; ``()`` for a linear map.
        kernel_sizes: Odd side lengths of the convolutions in pixels, one for each hidden layer
            and one for the output. If None, 3 for the first and the last, 1 between.
        context_dim: Length of a context that is a vector; 0 for none.
        context_shape: ``(channels, height, width)`` of a context that is a feature map, given
            flattened: ``context_dim`` is then their product.
        activation: A name, elementwise function or module, as for :class:`~pyro_nf.nn.MLP`.
        zero_init: Whether the last layer starts at 0.

    Raises:
        ValueError: If a size is out of range, a kernel's even, or the activation's name unknown.
        TypeError: If a size is no integer or the activation is none.

    References:
        Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
        arXiv:1807.03039.

    Examples:
        >>> import torch
        >>> network = ConvNet(3, 6, (16, 16), context_dim=2)
        >>> network(torch.randn(10, 5, 3, 8, 6), torch.randn(5, 2)).shape
        torch.Size([10, 5, 6, 8, 6])
    """

    def __init__(
        self,
        input_channels: int,
        output_channels: int,
        hidden_channels: Sequence[int] = (64, 64),
        *,
        kernel_sizes: Sequence[int] | None = None,
        context_dim: int = 0,
        context_shape: Sequence[int] | None = None,
        activation: Activation = "relu",
        zero_init: bool = True,
    ) -> None:
        owner = "ConvNet"
        size = context_size(owner, context_dim, context_shape)
        super().__init__(input_channels, output_channels, size)
        self.hidden_channels = hidden_sizes(owner, "hidden_channels", hidden_channels)
        self.kernel_sizes = odd_sizes(owner, kernel_sizes, len(self.hidden_channels) + 1)
        *inner, last = self.kernel_sizes
        widths = (input_channels, *self.hidden_channels)
        self.hidden = nn.ModuleList(
            ConditionedConv(inputs, outputs, kernel, size)
            for (inputs, outputs), kernel in zip(pairwise(widths), inner, strict=True)
        )
        self.activations = make_activations(owner, activation, len(self.hidden))
        for module in self.activations:
            if isinstance(module, nn.ReLU) and not size.dim:
                module.inplace = False
        self.output = ConditionedConv(
            widths[-1],
            output_channels,
            last,
            ContextSize(0, None) if self.hidden else size,
            zero_init=zero_init,
        )

    def _evaluate(self, x: Tensor, conditions: Conditions | None) -> Tensor:
        h = x
        for layer, activation in zip(self.hidden, self.activations, strict=True):
            h = activation(layer(h, conditions))
        return cast("Tensor", self.output(h, conditions))
