"""A full linear map by its LU factors."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from pyro_nf._checks import choice
from pyro_nf.transforms._linear.affine_map import AffineMap
from pyro_nf.transforms._linear.precision import widen
from pyro_nf.transforms._linear.triangles import solve_columns, well_conditioned
from pyro_nf.transforms.permutation import Permutation


class LULinear(AffineMap):
    r"""A linear map by its factors, :math:`y = P \operatorname{diag}(e^s)(I + L)(I + U) x + b`.

    L is strictly lower and U strictly upper triangular, P a fixed permutation. Moved to the right,
    the scales become a positive diagonal of the upper factor, so this is every matrix PLU with
    unit lower L and positive diagonal of U. Outside they do not amplify rounding in a round trip.
    The off-diagonal entries are parameters divided by :math:`\sqrt D`, which keeps random factors
    well conditioned in any dimension.

    Starts at P. Either direction costs O(D²) a row (data -> base: two triangular solves), the
    log-determinant :math:`\sum_i s_i` O(D).

    Args:
        input_dim: Number of dimensions D.
        bias: "learned" adds b, which starts at 0; "none" does not.
        seed: Seed of the generator that draws P; None takes the identity.

    Raises:
        ValueError: If ``bias`` is neither.

    References:
        Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
        arXiv 1807.03039, section 3.2.

    Example:
        >>> import torch
        >>> from pyro_nf.transforms import LULinear
        >>> layer = LULinear(3, seed=0)
        >>> y, ladj = layer.forward_and_ladj(torch.ones(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    permutation: Tensor

    def __init__(
        self,
        input_dim: int,
        *,
        bias: Literal["learned", "none"] = "learned",
        seed: int | None = None,
    ) -> None:
        super().__init__(input_dim)
        size = self.input_dim
        choice("LULinear", "bias", bias, ("learned", "none"))
        order = (
            torch.arange(size) if seed is None else Permutation.random(size, seed=seed).permutation
        )
        self.register_buffer("permutation", order)
        # Packed as LAPACK does: L below the diagonal, U above it, here the log-scales on it.
        self.factors = nn.Parameter(torch.zeros(size, size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias == "learned" else None

    def _map_columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, lower, upper = self._unpacked()
        y = torch.addmm(x, upper, x)
        y = torch.addmm(y, lower, y) * log_scale.exp()[:, None]
        y = y.index_select(0, self.permutation)
        bias = self.bias
        return y if bias is None else y + widen(bias)[:, None], log_scale.sum()

    def _unmap_columns(self, y: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, lower, upper = self._unpacked()
        bias = self.bias
        x = y if bias is None else y - widen(bias)[:, None]
        x = x.index_select(0, self.permutation.argsort()) * (-log_scale).exp()[:, None]
        x = solve_columns(lower, x, side="lower")
        return solve_columns(upper, x, side="upper"), -log_scale.sum()

    def _unpacked(self) -> tuple[Tensor, Tensor, Tensor]:
        """The log-scales ``(D,)`` and the strict triangles L and U, each ``(D, D)``."""
        factors = widen(self.factors)
        mixing = well_conditioned(factors)
        return factors.diagonal(), mixing.tril(-1), mixing.triu(1)
