"""The map that gives data zero mean and unit variance: learned in one layer, fixed in another."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_nf.transforms._contract.features import features_first
from pyro_nf.transforms._linear.affine_map import AffineMap
from pyro_nf.transforms._linear.moments import mean_and_std
from pyro_nf.transforms._linear.precision import widen


class CenterScale(AffineMap):
    r"""The map :math:`y_i = (x_i + m_i) e^{s_i} + c_i`, set from data once (abstract).

    The location has two parts. The centre c carries the data's offset, rounded to the layer's
    dtype, and never moves; the shift m, in units of the base, takes what rounding left. For data
    at 10⁴ ± 0.01 a float32 location alone would be off by 0.05 standard deviations, and a gradient
    step on it would be lost in rounding; y − c is exact there and m has full precision.

    Subclasses register ``shift`` and ``log_scale``.
    """

    shift: Tensor
    log_scale: Tensor
    center: Tensor
    initialized: Tensor

    def __init__(self, input_dim: int) -> None:
        super().__init__(input_dim)
        self.register_buffer("center", torch.zeros(self.input_dim))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def initialize(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Sets the layer so that these data have mean 0 and variance 1 on the base side.

        Only the first call does: it sets the buffer ``initialized``. A constant dimension keeps
        scale 1.

        Args:
            y: Data of shape ``(*batch, D)``, at least two rows, finite.
            context: None; the layer takes no context.

        Returns:
            The base side of the data, without a graph.

        Raises:
            ValueError: If there are fewer than two rows or a value is not finite.
        """
        if not self.initialized:
            h = features_first(self, y, context, "y")
            mean, std = mean_and_std(self, h.reshape(h.shape[0], -1), self.log_scale.dtype)
            # Rounded by the buffer's dtype; the shift then holds the remainder.
            self.center.copy_(mean)
            self.shift.copy_((mean - self.center.double()) / std)
            self.log_scale.copy_(std.log())
            self.initialized.copy_(torch.ones_like(self.initialized))
        return self.inverse_and_ladj(y, context)[0]

    def _map_columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = widen(self.log_scale), widen(self.shift)
        scaled = (x + shift[:, None]) * log_scale.exp()[:, None]
        return scaled + widen(self.center)[:, None], log_scale.sum()

    def _unmap_columns(self, y: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = widen(self.log_scale), widen(self.shift)
        scaled = (y - widen(self.center)[:, None]) * (-log_scale).exp()[:, None]
        return scaled - shift[:, None], -log_scale.sum()
