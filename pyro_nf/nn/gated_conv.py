"""A network of gated convolutions and attention, Flow++'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from pyro_nf._checks import choice, finite_float, non_negative_int, positive_int
from pyro_nf.nn._activations import Activation, make_activations
from pyro_nf.nn._attention import GatedAttention, gated
from pyro_nf.nn._conditions import (
    ConditionedConv,
    Conditions,
    ContextSize,
    context_size,
    same_conv,
)
from pyro_nf.nn._image_network import ImageNetwork, odd_size

Attention = Literal["full", "none"]


class GatedConvNet(ImageNetwork):
    r"""Flow++'s network of images, ``(*batch, C_in, H, W)`` to ``(*batch, C_out, H, W)``.

    After an opening convolution, each block is

    .. math::
        h &← \mathrm{norm}\big(h + \mathrm{gate}(a(K * a(h) + b))\big) \\
        h &← \mathrm{norm}\big(h + \mathrm{gate}(\mathrm{attention}(h + p))\big)

    with :math:`\mathrm{gate}(u) = A \odot σ(B)`, (A, B) an affine map of each pixel's channels;
    normalisation over the channels of each pixel (layer normalisation, which looks at no other
    image); self-attention over all pixels, in several heads; and p sinusoids of the pixel's row
    and column. An activation and a convolution make the output. Convolutions keep the image's
    size, zeros beyond its border.

    The context enters the opening convolution and that of every block, as in :class:`ConvNet`: a
    scale and a shift of the channels, of a vector the same for all pixels, of a feature map
    images.

    The weights know nothing of height and width: one network serves images of any size. A fresh
    network returns exactly 0 (unless ``zero_init=False``) and ignores its context.

    Cost: a convolution and two products with each pixel's channels a block, and with attention
    O((HW)²) a block in time and memory: at 16×16 pixels two thirds of the time. Leave it out for
    large images.

    Warning:
        With ``dropout`` the two directions of a layer disagree in training, where each pass
        draws its own.

    Args:
        input_channels: Channels of x.
        output_channels: Channels of the output.
        hidden_channels: Channels of all hidden layers.
        blocks: Number of blocks.
        heads: Number of heads of the attention; divides ``hidden_channels``.
        attention: "full" or "none".
        dropout: Probability in [0, 1) of dropping an activation before each convolution's gate,
            in training.
        kernel_size: Odd side length in pixels of the convolutions.
        context_dim: Length of a context that is a vector; 0 for none.
        context_shape: ``(channels, height, width)`` of a context that is a feature map, given
            flattened: ``context_dim`` is then their product.
        activation: "concat_elu" is the paper's (elu(x), elu(-x)), with twice as many channels;
            else a name, elementwise function or module, as for :class:`~pyro_nf.nn.MLP`.
        zero_init: Whether the last layer starts at 0.

    Raises:
        ValueError: If a size or ``dropout`` is out of range, the kernel's even, the heads do not
            divide the channels, or an option is unknown.
        TypeError: If a size is no integer or the activation is none.

    References:
        - Flow++: Improving Flow-Based Generative Models with Variational Dequantization and
          Architecture Design (Ho et al., 2019), arXiv:1902.00275, section 3.3.
        - Attention Is All You Need (Vaswani et al., 2017), arXiv:1706.03762 (the sinusoids; ours
          know two axes and shorter waves).

    Examples:
        >>> import torch
        >>> network = GatedConvNet(3, 6, 16, context_dim=2)
        >>> network(torch.randn(5, 3, 8, 6), torch.randn(5, 2)).shape
        torch.Size([5, 6, 8, 6])
    """

    def __init__(
        self,
        input_channels: int,
        output_channels: int,
        hidden_channels: int = 64,
        *,
        blocks: int = 2,
        heads: int = 4,
        attention: Attention = "full",
        dropout: float = 0.0,
        kernel_size: int = 3,
        context_dim: int = 0,
        context_shape: Sequence[int] | None = None,
        activation: Activation = "concat_elu",
        zero_init: bool = True,
    ) -> None:
        owner = "GatedConvNet"
        size = context_size(owner, context_dim, context_shape)
        super().__init__(input_channels, output_channels, size)
        self.hidden_channels = positive_int(owner, "hidden_channels", hidden_channels)
        non_negative_int(owner, "blocks", blocks)
        self.attention: Attention = choice(owner, "attention", attention, ("full", "none"))
        positive_int(owner, "heads", heads)
        if attention == "full" and hidden_channels % heads:
            raise ValueError(
                f"{owner} got heads={heads}, which do not divide hidden_channels="
                f"{hidden_channels}. Pass a divisor, or attention='none'."
            )
        if not 0 <= finite_float(owner, "dropout", dropout) < 1:
            raise ValueError(f"{owner} got dropout={dropout}. Pass a probability in [0, 1).")
        odd_size(owner, "kernel_size", kernel_size)
        self.opening = ConditionedConv(input_channels, hidden_channels, kernel_size, size)
        self.blocks = nn.ModuleList(
            GatedBlock(
                GatedConv(hidden_channels, kernel_size, size, activation, dropout),
                GatedAttention(hidden_channels, heads) if attention == "full" else None,
            )
            for _ in range(blocks)
        )
        self.activation, copies = _activation(activation)
        self.output = same_conv(
            copies * hidden_channels, output_channels, kernel_size, zero_init=zero_init
        )

    def _evaluate(self, x: Tensor, conditions: Conditions | None) -> Tensor:
        h = self.opening(x, conditions).permute(0, 2, 3, 1)  # (N, H, W, channels)
        for block in self.blocks:
            h = block(h, conditions)
        return cast("Tensor", self.output(self.activation(h.permute(0, 3, 1, 2))))


class GatedConv(nn.Module):
    """A convolution between two activations, then a gate.

    Args:
        channels: Channels of the images.
        kernel_size: Odd side length, in pixels.
        context: The size of the context.
        activation: As for :class:`GatedConvNet`.
        dropout: Probability of dropping what the gate reads, in training.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        context: ContextSize,
        activation: Activation,
        dropout: float,
    ) -> None:
        super().__init__()
        self.before, copies = _activation(activation)
        self.conv = ConditionedConv(copies * channels, channels, kernel_size, context)
        self.between, _ = _activation(activation)
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.gate = nn.Linear(copies * channels, 2 * channels)

    def forward(self, h: Tensor, conditions: Conditions | None) -> Tensor:
        """Maps h ``(N, H, W, channels)`` to the same shape."""
        images = self.conv(self.before(h.permute(0, 3, 1, 2)), conditions)
        between = self.between(images)
        if self.dropout is not None:
            between = self.dropout(between)
        return gated(self.gate(between.permute(0, 2, 3, 1)))


class GatedBlock(nn.Module):
    """A gated convolution and gated attention, each added to what it reads, then normalised.

    Args:
        conv: The gated convolution.
        attention: The attention, or None.
    """

    def __init__(self, conv: GatedConv, attention: GatedAttention | None) -> None:
        super().__init__()
        channels = conv.gate.out_features // 2
        self.conv, self.attention = conv, attention
        self.conv_norm = nn.LayerNorm(channels)
        self.attention_norm = nn.LayerNorm(channels) if attention is not None else None

    def forward(self, h: Tensor, conditions: Conditions | None) -> Tensor:
        """Maps h ``(N, H, W, channels)`` to the same shape."""
        h = self.conv_norm(h + self.conv(h, conditions))
        if self.attention is None or self.attention_norm is None:
            return h
        return cast("Tensor", self.attention_norm(h + self.attention(h)))


class ConcatELU(nn.Module):
    """The pair (elu(x), elu(-x)), in twice as many channels."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, channels, H, W)`` to ``(N, 2 channels, H, W)``."""
        return nn.functional.elu(torch.cat([x, -x], 1))


def _activation(activation: Activation) -> tuple[nn.Module, int]:
    """Creates an activation, and says how many values it makes of one."""
    if activation == "concat_elu":
        return ConcatELU(), 2
    (module,) = make_activations("GatedConvNet", activation, 1)
    return module, 1
