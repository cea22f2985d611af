"""A learned shift and scale that start from data."""

from __future__ import annotations

import torch
from torch import nn

from pyro_nf.transforms._linear.center_scale import CenterScale


class ActNorm(CenterScale):
    r"""Activation normalisation, :math:`y_i = (x_i + m_i) e^{s_i} + c_i` with m and s learned.

    :meth:`initialize` sets it so that given data have mean 0 and variance 1 on the base side, in
    each dimension; ``fit_density`` calls it. Before that it is the identity. The centre c is the
    data's mean rounded to the layer's dtype, a buffer; the learned shift m is in units of the
    base, so that steps of one size suit data of any location and unit. The buffer ``initialized``
    is part of the ``state_dict``: a restored layer is not initialised again.

    Either direction costs O(D) a row; the log-determinant is :math:`\sum_i s_i`.

    Args:
        input_dim: Number of dimensions D.

    References:
        Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
        arXiv 1807.03039, section 3.1.

    Example:
        >>> import torch
        >>> from pyro_nf.transforms import ActNorm
        >>> layer = ActNorm(2)
        >>> x = layer.initialize(torch.tensor([[1.0, 10.0], [3.0, 50.0], [5.0, 30.0]]))
        >>> x.mean(0), x.std(0)
        (tensor([0., 0.]), tensor([1.0000, 1.0000]))
    """

    def __init__(self, input_dim: int) -> None:
        super().__init__(input_dim)
        self.shift = nn.Parameter(torch.zeros(self.input_dim))
        self.log_scale = nn.Parameter(torch.zeros(self.input_dim))
