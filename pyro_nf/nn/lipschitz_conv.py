"""A convolutional network with a bound on its Lipschitz constant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from pyro_nf._checks import checked_image_shape, choice, hidden_sizes
from pyro_nf.nn._conditions import (
    ContextSize,
    context_size,
    read_context,
    same_conv,
)
from pyro_nf.nn._contractive import Contractive
from pyro_nf.nn._image_network import odd_sizes
from pyro_nf.nn._lipschitz_conv_function import LipschitzConvFunction, with_pointwise
from pyro_nf.nn._lipschitz_conv_layer import LipschitzConv
from pyro_nf.nn._lipschitz_network import LipschitzNetwork
from pyro_nf.nn._spectral_conv import ConvLimit, ConvNorm


class LipschitzConvNet(LipschitzNetwork):
    r"""A convolutional network g of images with :math:`|g(x) - g(x')| \le L |x - x'|`.

    .. math::
        h_i = a(\bar K_i * h_{i-1} + b_i + t_i(c)), \quad g = \bar K_n * h_{n-1} + b_n, \quad
        \bar K_i = K_i \min(1, L^{1/n} / \lVert K_i \rVert)

    where * is a convolution that keeps the image's size, zeros beyond its border, norms are
    Euclidean and the activations a have constant 1: the constant of g is at most the product L of
    the layers' norms, whatever the kernels are. :math:`\lVert K \rVert` is the norm of the
    convolution as a linear map of images of this size, or a bound on it from above. That of the
    kernel as a matrix, which is often taken, may be smaller by a factor of up to the root of the
    kernel's number of pixels, 3 for 3×3.

    The context c shifts the hidden layers and is not counted: for each c, g is L-Lipschitz in x.
    Of a vector the shift is the same for all pixels; a feature map, given flattened, is brought to
    the images' height and width and convolved by each layer. A fresh network returns exactly 0
    (unless ``zero_init=False``).

    Cost: a convolution a layer, two after the concatenated activation; and one norm a layer at
    each call, about a millisecond for hidden layers that only kernels of 1×1 join.

    Args:
        image_shape: ``(channels, height, width)`` of the images, in and out.
        hidden_channels: Channels of the hidden layers; ``()`` for a linear map. The concatenated
            activation hands twice as many to the next layer.
        lipschitz: The bound L > 0.
        kernel_sizes: Odd side lengths of the convolutions in pixels, one for each hidden layer
            and one for the output. If None, 3 for the first and the last, 1 between.
        context_dim: Length of a context that is a vector; 0 for none.
        context_shape: ``(channels, height, width)`` of a context that is a feature map, given
            flattened: ``context_dim`` is then their product.
        activation: "concat_lipswish", "lipswish", "tanh", "elu" or "softplus", all of constant 1.
        norm: "exact" takes the norm of a convolution of at most 32 numbers (256 where a kernel is
            as large as the image), beyond it the norm of the same convolution on a torus, which
            is never smaller: the bound always holds. "power" follows the norms by power iteration
            with a margin of 5 %; :meth:`refine` moves its vectors along, and second derivatives
            with respect to the kernels hold the singular vectors fixed. Convolutions have many
            nearly equal singular values, between which it converges slowly. "auto" is "exact" for
            each layer unless that costs more than about ten milliseconds.
        zero_init: Whether the last layer starts at 0.

    Raises:
        ValueError: If a size or ``lipschitz`` is out of range, a kernel's even, or an option
            unknown.
        TypeError: If a size is no integer.

    References:
        - The Singular Values of Convolutional Layers (Sedghi et al., 2019), arXiv:1805.10408.
        - Invertible residual networks (Behrmann et al., 2019), arXiv:1811.00995.
        - Residual flows for invertible generative modeling (Chen et al., 2019), arXiv:1906.02735.

    Examples:
        >>> import torch
        >>> network = LipschitzConvNet((3, 8, 6), (16, 16), lipschitz=0.9, zero_init=False)
        >>> network(torch.randn(10, 3, 8, 6)).shape
        torch.Size([10, 3, 8, 6])
        >>> bool(network.lipschitz_bound() <= 0.9001)
        True
    """

    linears: Sequence[LipschitzConv]

    def __init__(
        self,
        image_shape: Sequence[int],
        hidden_channels: Sequence[int] = (32, 32),
        *,
        lipschitz: float = 0.97,
        kernel_sizes: Sequence[int] | None = None,
        context_dim: int = 0,
        context_shape: Sequence[int] | None = None,
        activation: Contractive = "concat_lipswish",
        norm: ConvNorm = "auto",
        zero_init: bool = True,
    ) -> None:
        owner = "LipschitzConvNet"
        hidden_channels = hidden_sizes(owner, "hidden_channels", hidden_channels)
        super().__init__(len(hidden_channels), lipschitz, activation)
        self.image_shape = checked_image_shape(owner, "image_shape", image_shape)
        self.hidden_channels = hidden_channels
        self.kernel_sizes = odd_sizes(owner, kernel_sizes, len(hidden_channels) + 1)
        size = context_size(owner, context_dim, context_shape)
        self.context_dim, self.context_shape = size
        choice(owner, "norm", norm, get_args(ConvNorm))
        concatenated = activation == "concat_lipswish"
        channels, height, width = self.image_shape
        linears = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(pairwise((channels, *hidden_channels, channels))):
            last = i == len(hidden_channels)
            reads: Literal["values", "pairs"] = "pairs" if i and concatenated else "values"
            kernel = self.kernel_sizes[i]
            fan_in = 2 * inputs if reads == "pairs" else inputs
            limit = ConvLimit(
                (outputs, fan_in, kernel, kernel), (height, width), self.limits[i], norm
            )
            conv = same_conv(fan_in, outputs, kernel, zero_init=zero_init and last)
            shifted_by = ContextSize(0, None) if last and i else size
            linears.append(LipschitzConv(conv, limit, shifted_by, reads))
        self.linears = cast("Sequence[LipschitzConv]", linears)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Evaluates the network.

        Args:
            x: Shape ``(*batch, channels, height, width)``.
            context: Shape ``(*context_batch, context_dim)``; its batch broadcasts against that of
                x, aligned right, and is not larger.

        Returns:
            Tensor of the shape of x, contiguous; half precision computes in float32.

        Raises:
            ValueError: If a shape does not fit.
        """
        if x.ndim < 3 or x.shape[-3:] != self.image_shape:
            raise ValueError(
                f"LipschitzConvNet(image_shape={self.image_shape}) got x of shape "
                f"{tuple(x.shape)}. Pass shape (*batch, {str(self.image_shape)[1:]}."
            )
        batch = x.shape[:-3]
        function = self.read(context, batch)
        pixels = x.movedim(-3, -1)  # (*batch, H, W, channels)
        rows = pixels.reshape(math.prod(batch), math.prod(self.image_shape))
        columns = function(rows.to(function.layers[0].weight.dtype).t())
        return columns.t().to(x.dtype).reshape(pixels.shape).movedim(-1, -3).contiguous()

    def read(self, context: Tensor | None, batch: torch.Size) -> LipschitzConvFunction:
        """Reads and scales the weights, each once, for repeated evaluation.

        Args:
            context: Shape ``(*context_batch, context_dim)``, or None.
            batch: The batch of x, at least that of the context.

        Returns:
            The network as a function of ``(D, prod(batch))``, in float32 at least, with the D
            numbers of an image in the order height, width, channels.
        """
        size = ContextSize(self.context_dim, self.context_shape)
        conditions = read_context("LipschitzConvNet", size, context, batch, self.image_shape[1:])
        layers, activations = with_pointwise(
            [linear.read(conditions) for linear in self.linears], self.activations
        )
        return LipschitzConvFunction(layers, activations, self.image_shape, batch)
