"""The linear layer of a Lipschitz network: its weight is held below a spectral norm."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from pyro_nf._precision import widen
from pyro_nf.nn._linear import Linear, spread
from pyro_nf.nn._lipschitz_function import LipschitzLayer
from pyro_nf.nn._spectral import Norm, SpectralLimit, top_singular_value


class LipschitzLinear(nn.Module):
    """A linear layer whose weight has a spectral norm of at most ``limit``.

    Args:
        linear: The layer with the free weight.
        limit: The largest spectral norm.
        norm: How the norm is found, as for :class:`~pyro_nf.nn._spectral.SpectralLimit`.
        reads: "values", or "pairs" (a(z), a(z) - z), of which the weight has a half each.
    """

    def __init__(
        self, linear: Linear, limit: float, norm: Norm, reads: Literal["values", "pairs"]
    ) -> None:
        super().__init__()
        self.linear = linear
        self.limit = SpectralLimit((linear.output_dim, linear.input_dim), limit, norm)
        self.reads = reads

    def read(self, context: Tensor | None, batch: torch.Size) -> LipschitzLayer:
        """Reads the parameters, each once: in float32 at least, the weight scaled."""
        raw_weight, raw_shift = self.linear.values(context)
        weight, bypass, shift = self.limit(widen(raw_weight)), None, widen(raw_shift)
        if self.reads == "pairs":  # V a(z) + W (a(z) - z) = (V + W) a(z) - W z
            plain, reflected = weight.chunk(2, dim=1)
            weight, bypass = plain + reflected, -reflected
        shift = shift[:, None] if shift.ndim == 1 else spread(shift, batch)
        return LipschitzLayer(weight, bypass, shift)

    def refine(self) -> None:
        """Moves the vector of a power iteration along with the weight, in place."""
        self.limit.refine(widen(self.linear.weight))

    def norm(self) -> Tensor:
        """Computes the exact spectral norm of the scaled weight, a scalar."""
        return top_singular_value(self.limit(widen(self.linear.weight)))
