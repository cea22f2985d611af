"""A fixed shift and scale taken from data."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_nf.transforms._linear.center_scale import CenterScale


class Standardize(CenterScale):
    r"""A fixed standardisation, :math:`y_i = (x_i + m_i) e^{s_i} + c_i`, with nothing learned.

    As the last layer of a flow it lets the others work on data with mean 0 and variance 1, while
    densities stay those of the raw data. Set it by :meth:`from_data` or :meth:`initialize`; before
    that it is the identity. The location is :math:`c + m e^s`, in two parts so that data far from
    0 lose no precision. All is in buffers, so a ``state_dict`` restores it.

    Either direction costs O(D) a row; the log-determinant is :math:`\sum_i s_i`.

    Args:
        input_dim: Number of dimensions D.

    Example:
        >>> import torch
        >>> from pyro_nf.transforms import Standardize
        >>> y = torch.tensor([[1.0, 10.0], [3.0, 50.0], [5.0, 30.0]])
        >>> layer = Standardize.from_data(y)
        >>> layer.inv(y).std(0)
        tensor([1.0000, 1.0000])
    """

    def __init__(self, input_dim: int) -> None:
        super().__init__(input_dim)
        self.register_buffer("shift", torch.zeros(self.input_dim))
        self.register_buffer("log_scale", torch.zeros(self.input_dim))

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
