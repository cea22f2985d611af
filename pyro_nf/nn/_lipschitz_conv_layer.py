"""The convolution of a Lipschitz network: it is held below a spectral norm."""

from __future__ import annotations

from typing import Literal, cast

from torch import Tensor, nn

from pyro_nf._precision import widen
from pyro_nf.nn._conditions import Conditions, ContextReader, ContextSize
from pyro_nf.nn._lipschitz_conv_function import LipschitzConvLayer
from pyro_nf.nn._spectral_conv import ConvLimit


class LipschitzConv(nn.Module):
    """A convolution, as a linear map of images, with a spectral norm of at most ``limit``.

    Args:
        conv: The convolution with the free kernel.
        limit: What holds its norm.
        context: The size of the context, which shifts the channels.
        reads: "values", or "pairs" (a(z), a(z) - z), of which the kernel has a half each.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        limit: ConvLimit,
        context: ContextSize,
        reads: Literal["values", "pairs"],
    ) -> None:
        super().__init__()
        self.conv = conv
        self.limit = limit
        self.shift = ContextReader(conv.out_channels, context) if context.dim else None
        self.reads = reads

    def read(self, conditions: Conditions | None) -> LipschitzConvLayer:
        """Reads the parameters, each once: in float32 at least, the kernel scaled."""
        weight, bypass = self.limit(widen(self.conv.weight)), None
        bias = widen(cast("Tensor", self.conv.bias))
        if self.reads == "pairs":  # V a(z) + W (a(z) - z) = (V + W) a(z) - W z
            plain, reflected = weight.chunk(2, dim=1)
            weight, bypass = plain + reflected, -reflected
        if self.shift is None or conditions is None:
            return LipschitzConvLayer(weight, bypass, bias, None)
        return LipschitzConvLayer(weight, bypass, bias, widen(self.shift(conditions)))

    def refine(self) -> None:
        """Moves the vector of a power iteration along with the kernel, in place."""
        self.limit.refine(widen(self.conv.weight))

    def norm(self) -> Tensor:
        """Computes the spectral norm of the scaled kernel or a bound from above, a scalar."""
        return self.limit.exact(self.limit(widen(self.conv.weight)))
