"""One learned scale for each dimension."""

from __future__ import annotations

from typing import Any, final

from pyro_nf.bijections import DiagonalScale as _Scale
from pyro_nf.transforms._joint import JointWiring


@final
class DiagonalScale(JointWiring):
    r"""A learned positive scale for each dimension, :math:`y_i = x_i e^{s_i}`.

    The last layer of NICE, whose couplings preserve volume. Starts at the identity. Either
    direction costs O(D) a row; the log-determinant is :math:`\sum_i s_i`.

    Args:
        input_dim: Number of dimensions D.
        **network: ``context_dim``, ``hidden_dims``, ``activation`` and ``residual``, as
            :class:`~pyro_nf.transforms.Joint` takes them.

    References:
        NICE: Non-linear Independent Components Estimation (Dinh et al., 2014), arXiv 1410.8516.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import DiagonalScale
        >>> y, ladj = DiagonalScale(3).forward_and_ladj(torch.ones(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(self, input_dim: int, **network: Any) -> None:
        super().__init__(_Scale(), input_dim, **network)
