"""A fixed shift and scale taken from data."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_nf._precision import widen
from pyro_nf.transforms._contract.features import features_first
from pyro_nf.transforms._linear.affine_map import AffineMap
from pyro_nf.transforms._linear.moments import mean_and_std


class Standardize(AffineMap):
    r"""A fixed standardisation, :math:`y_i = (x_i + m_i) e^{s_i} + c_i`, with nothing learned.

    As the last layer of a flow it lets the others work on data with mean 0 and variance 1, while
    densities stay those of the raw data. Set it by :meth:`from_data` or :meth:`initialize`; before
    that it is the identity.

    The location has two parts. The centre c is the data's mean rounded to the layer's dtype; the
    shift m, in units of the base, takes what rounding left. So y - c is exact and data far from 0
    lose no precision.

    Either direction costs O(D) a row; the log-determinant is :math:`\sum_i s_i`.

    Args:
        input_dim: Number of dimensions D.

    Warning:
        All is in buffers. A ``state_dict`` restores them; Pyro's parameter store does not.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import Standardize
        >>> y = torch.tensor([[1.0, 10.0], [3.0, 50.0], [5.0, 30.0]])
        >>> layer = Standardize.from_data(y)
        >>> layer.inv(y).std(0)
        tensor([1.0000, 1.0000])
    """

    shift: Tensor
    log_scale: Tensor
    center: Tensor
    initialized: Tensor

    def __init__(self, input_dim: int) -> None:
        super().__init__(input_dim)
        for name in ("shift", "log_scale", "center"):
            self.register_buffer(name, torch.zeros(self.input_dim))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    @classmethod
    def from_data(cls, y: Tensor) -> Standardize:
        """Creates the layer that gives these data mean 0 and variance 1.

        Args:
            y: Data of shape ``(*batch, D)``, at least two rows, finite. The layer takes its
                floating dtype and its device.

        Raises:
            ValueError: If y has no dimension, fewer than two rows, or a value that is not finite.
        """
        if y.ndim == 0:
            raise ValueError(
                "Standardize.from_data got data with no dimensions. Pass shape (*batch, D)."
            )
        dtype = y.dtype if y.is_floating_point() else torch.get_default_dtype()
        layer = cls(y.shape[-1]).to(y.device, dtype)
        layer.initialize(y.to(dtype))
        return layer

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
