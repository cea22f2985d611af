"""A full linear map by its QR factors."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from pyro_nf._checks import choice, positive_int
from pyro_nf.transforms._linear.affine_map import AffineMap
from pyro_nf.transforms._linear.precision import widen
from pyro_nf.transforms._linear.triangles import (
    solve_columns,
    strict_count,
    strictly_lower,
    well_conditioned,
)
from pyro_nf.transforms.householder import paired_vectors, reflect

_LOG_SCALE_BOUND = 5.0


class QRLinear(AffineMap):
    r"""A linear map by its factors, :math:`y = Q \operatorname{diag}(e^s)(I + U) x + b`.

    Q is a product of Householder reflections and U strictly upper triangular. With at least D
    reflections, every invertible matrix is of this form up to one sign; unlike an LU product it
    needs no permutation for that.

    Q mixes dimensions of different scale, so a round trip loses what the scales differ by: they
    are bounded softly, :math:`s = 5 \tanh(t/5)` for the parameter t. An ActNorm on the data side
    takes care of data whose units differ by more. The entries of U are parameters divided by
    :math:`\sqrt D`, which keeps random factors well conditioned in any dimension.

    Starts at the identity if the number of reflections is even. Either direction costs O(D² + KD)
    a row for K reflections, the log-determinant :math:`\sum_i s_i` O(D).

    Args:
        input_dim: Number of dimensions D.
        reflections: Number of reflections K; None takes the smallest even number that reaches
            every rotation.
        bias: "learned" adds b, which starts at 0; "none" does not.

    Raises:
        ValueError: If ``bias`` is neither, or ``reflections`` not positive.

    References:
        Emerging Convolutions for Generative Normalizing Flows (Hoogeboom et al., 2019),
        arXiv 1901.11137, section 3.3.

    Example:
        >>> import torch
        >>> from pyro_nf.transforms import QRLinear
        >>> layer = QRLinear(3)
        >>> y, ladj = layer.forward_and_ladj(torch.ones(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(
        self,
        input_dim: int,
        *,
        reflections: int | None = None,
        bias: Literal["learned", "none"] = "learned",
    ) -> None:
        super().__init__(input_dim)
        size = self.input_dim
        choice("QRLinear", "bias", bias, ("learned", "none"))
        if reflections is None:
            # A rotation is a product of an even number of reflections, at most D of them.
            reflections = max(2, size - size % 2)
        self.reflections = positive_int("QRLinear", "reflections", reflections)
        self.vectors = nn.Parameter(paired_vectors(self.reflections, size))
        self.log_scale = nn.Parameter(torch.zeros(size))
        self.upper = nn.Parameter(torch.zeros(strict_count(size)))
        self.bias = nn.Parameter(torch.zeros(size)) if bias == "learned" else None

    def _map_columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = self._log_scale()
        y = torch.addmm(x, self._upper(), x) * log_scale.exp()[:, None]
        y = reflect(widen(self.vectors), y)
        bias = self.bias
        return y if bias is None else y + widen(bias)[:, None], log_scale.sum()

    def _unmap_columns(self, y: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = self._log_scale()
        bias = self.bias
        x = y if bias is None else y - widen(bias)[:, None]
        x = reflect(widen(self.vectors), x, side="transposed") * (-log_scale).exp()[:, None]
        return solve_columns(self._upper(), x, side="upper"), -log_scale.sum()

    def _log_scale(self) -> Tensor:
        return _LOG_SCALE_BOUND * (widen(self.log_scale) / _LOG_SCALE_BOUND).tanh()  # (D,)

    def _upper(self) -> Tensor:
        """U, shape ``(D, D)``."""
        return well_conditioned(strictly_lower(widen(self.upper), self.input_dim).mT)

    @property
    def sign(self) -> int:
        """For one dimension, where each reflection is y = -x, that of their number."""
        return (-1) ** self.reflections * super().sign

    def extra_repr(self) -> str:
        """The sizes, for ``repr``."""
        return f"{super().extra_repr()}, reflections={self.reflections}"
