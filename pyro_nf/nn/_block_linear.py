"""The linear layer of a block network: block triangular, positive on the diagonal."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyro_nf._precision import widen
from pyro_nf.nn._block_values import LayerValues
from pyro_nf.nn._linear import spread

# exp(7) times data of any sensible size is finite, also after several layers.
_LARGEST_LOG_GAIN = 7.0


class BlockLinear(nn.Module):
    r"""An affine map of D blocks of units, increasing within each block.

    With a units in each block before and b in each after, the raw matrix has any blocks below the
    diagonal, blocks of exponentials on it, and 0 above. Row i is normalised and given a gain,

    .. math:: W_i = e^{s(g_i)} \, R_i / \lVert R_i \rVert, \qquad s(g) = \frac{g}{1 + |g| / 7},

    and the context adds a term to the bias, computed once for each of its rows.

    Args:
        input_dim: Number of blocks D.
        units_in: Units a in each block before.
        units_out: Units b in each block after.
        context_dim: Size of the context; 0 for none.
    """

    mask: Tensor

    def __init__(
        self, input_dim: int, units_in: int, units_out: int, *, context_dim: int = 0
    ) -> None:
        super().__init__()
        self.input_dim, self.units_in, self.units_out = input_dim, units_in, units_out
        rows, columns = input_dim * units_out, input_dim * units_in
        self.weight = nn.Parameter(torch.empty(rows, columns))
        self.log_weight = nn.Parameter(torch.empty(input_dim, units_out, units_in))
        self.log_gain = nn.Parameter(torch.zeros(rows))
        self.bias = nn.Parameter(torch.zeros(rows))
        self.context_weight = nn.Parameter(torch.empty(rows, context_dim)) if context_dim else None
        below = torch.ones(input_dim, input_dim).tril(-1)
        mask = below.repeat_interleave(units_out, 0).repeat_interleave(units_in, 1)
        self.register_buffer("mask", mask)
        bound = 1 / math.sqrt(columns + context_dim)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.log_weight, -1, 1)
        if self.context_weight is not None:
            nn.init.uniform_(self.context_weight, -bound, bound)

    @torch.no_grad()
    def rescale(self, log_factor: Tensor, shift: Tensor) -> None:
        """Multiplies each row by a factor, ``(D * b,)``, and then adds to its bias."""
        log_gain = _bounded(self.log_gain) + log_factor
        room = (_LARGEST_LOG_GAIN - log_gain.abs()).clamp(min=0.1)
        self.log_gain.copy_(_LARGEST_LOG_GAIN * log_gain / room)
        self.bias.copy_(self.bias * log_factor.exp() + shift)

    def values(self, context: Tensor | None, batch: torch.Size) -> LayerValues:
        """Reads the parameters, each once: attributes may be sampled anew at every access.

        Args:
            context: Shape ``(*context_batch, context_dim)``, or None.
            batch: The rows' batch, already broadcast with the context's.

        Returns:
            The layer's numbers; half precision as float32.
        """
        raw = widen(self.weight) * self.mask
        positive = widen(self.log_weight).exp()  # (D, b, a)
        square = raw.square().sum(1) + positive.square().sum(2).flatten()  # (D * b,)
        scale = (_bounded(widen(self.log_gain)).exp() * square.rsqrt()).unsqueeze(1)
        blocks = positive * scale.unflatten(0, (self.input_dim, self.units_out))
        below = (raw * scale).view(self.input_dim, self.units_out, self.input_dim, self.units_in)
        weight = torch.diagonal_scatter(below, blocks.permute(1, 2, 0), dim1=0, dim2=2)
        return LayerValues(weight.view_as(raw), self._shift(context, batch), blocks)

    def _shift(self, context: Tensor | None, batch: torch.Size) -> Tensor:
        """The bias plus the context's term: ``(D * b, 1)``, with a context ``(D * b, N)``."""
        bias = widen(self.bias).unsqueeze(1)
        if self.context_weight is None or context is None:
            return bias
        rows = widen(context.reshape(math.prod(context.shape[:-1]), context.shape[-1]))
        shift = torch.addmm(bias, widen(self.context_weight), rows.t())
        return spread(shift.reshape(len(bias), *context.shape[:-1]), batch)

    def extra_repr(self) -> str:
        """Shows the sizes."""
        return f"input_dim={self.input_dim}, units_in={self.units_in}, units_out={self.units_out}"


def _bounded(log_gain: Tensor) -> Tensor:
    return log_gain / (1 + log_gain.abs() / _LARGEST_LOG_GAIN)
