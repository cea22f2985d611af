"""Diagonal and lower triangular affine maps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_nf.bijections._matrices import (
    add_product,
    solve_columns,
    strict_count,
    strictly_lower,
    well_conditioned,
)
from pyro_nf.bijections._vector import Params, VectorBijection


@dataclass(frozen=True)
class DiagonalScale(VectorBijection):
    r"""A positive scale for each dimension, :math:`y_i = x_i e^{s_i}`.

    The last layer of NICE, whose couplings preserve volume. Starts at the identity. Either
    direction costs O(D) a point; the log-determinant is :math:`\sum_i s_i`.

    Parameters: ``log_scale`` s ``(D,)``.

    References:
        NICE: Non-linear Independent Components Estimation (Dinh et al., 2014), arXiv 1410.8516.

    Examples:
        >>> import torch
        >>> from pyro_nf.bijections import DiagonalScale
        >>> f = DiagonalScale()
        >>> y, ladj = f.forward(torch.ones(3, 5), f.initial(3))  # five points in columns
        >>> y.shape, ladj
        (torch.Size([3, 5]), tensor([0.]))
    """

    def initial(self, input_dim: int) -> dict[str, Tensor]:
        """Creates zeros."""
        return {"log_scale": torch.zeros(input_dim)}

    def forward(self, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``exp(s) x``."""
        log_scale = params["log_scale"][..., None]
        return x * log_scale.exp(), log_scale.sum(-2)

    def inverse(self, y: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``exp(-s) y``."""
        log_scale = params["log_scale"][..., None]
        return y * (-log_scale).exp(), -log_scale.sum(-2)


@dataclass(frozen=True)
class TriangularAffine(VectorBijection):
    r"""A lower triangular affine map, :math:`y = L x + b`: on a standard normal, any normal.

    :math:`L = \operatorname{diag}(e^s)(I + N/\sqrt D)` with N strictly lower triangular covers
    every lower triangular matrix with a positive diagonal, the Cholesky factor of any covariance.
    The scales multiply outside, so they neither amplify rounding in a round trip nor bound the
    standard deviations that can be reached. Starts at the identity. Either direction costs O(D²) a
    point; the log-determinant is :math:`\sum_i s_i`.

    Parameters: ``log_scale`` s ``(D,)``, ``lower`` ``(D(D-1)/2,)``, the entries of N row by row,
    ``bias`` b ``(D,)``.

    Examples:
        >>> import torch
        >>> from pyro_nf.bijections import TriangularAffine
        >>> f = TriangularAffine()
        >>> y, ladj = f.forward(torch.ones(3, 5), f.initial(3))  # five points in columns
        >>> y.shape, ladj
        (torch.Size([3, 5]), tensor([0.]))
    """

    def initial(self, input_dim: int) -> dict[str, Tensor]:
        """Creates zeros."""
        return {
            "log_scale": torch.zeros(input_dim),
            "lower": torch.zeros(strict_count(input_dim)),
            "bias": torch.zeros(input_dim),
        }

    def forward(self, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``L x + b``."""
        log_scale, lower, bias = _unpacked(x.shape[-2], params)
        return add_product(x, lower, x) * log_scale.exp() + bias, log_scale.sum(-2)

    def inverse(self, y: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``L⁻¹ (y - b)`` by one triangular solve."""
        log_scale, lower, bias = _unpacked(y.shape[-2], params)
        mixed = (y - bias) * (-log_scale).exp()
        return solve_columns(lower, mixed, side="lower"), -log_scale.sum(-2)


def _unpacked(size: int, params: Params) -> tuple[Tensor, Tensor, Tensor]:
    """The log-scales ``(*batch, D, 1)``, N/√D ``(*batch, D, D)`` and b ``(*batch, D, 1)``."""
    lower = well_conditioned(strictly_lower(params["lower"], size))
    return params["log_scale"][..., None], lower, params["bias"][..., None]
