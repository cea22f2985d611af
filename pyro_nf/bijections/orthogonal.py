"""Orthogonal maps: products of reflections, rotations by Cayley's map or the exponential."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyro_nf._checks import choice, positive_int
from pyro_nf.bijections._matrices import strict_count, strictly_lower
from pyro_nf.bijections._reflections import paired_vectors, reflect
from pyro_nf.bijections._vector import Params, VectorBijection


@dataclass(frozen=True)
class Householder(VectorBijection):
    r"""A product of K reflections, :math:`y = H_1 ⋯ H_K x`, :math:`H = I - 2 v v^\top / |v|^2`.

    An orthogonal map: its log-determinant is 0 and its inverse the transpose. D reflections reach
    every orthogonal matrix. The vectors start in equal pairs, whose reflections cancel: with an
    even number the map starts at the identity, and it can leave it since the two of a pair have
    opposite gradients. Either direction costs O(KD + K²) a point, in two matrix products and one
    solve of size K instead of K steps.

    Parameters: ``vectors`` ``(K, D)``.

    Args:
        reflections: Number of reflections K.

    Raises:
        TypeError, ValueError: If ``reflections`` is no positive integer.

    References:
        Improving Variational Auto-Encoders using Householder Flow (Tomczak & Welling, 2016),
        arXiv 1611.09630.

    Examples:
        >>> import torch
        >>> from pyro_nf.bijections import Householder
        >>> f = Householder(reflections=4)
        >>> y, ladj = f.forward(torch.ones(3, 5), f.initial(3))  # five points in columns
        >>> y.shape, ladj
        (torch.Size([3, 5]), tensor(0.))
    """

    reflections: int = 2

    def __post_init__(self) -> None:
        """Checks the option."""
        positive_int("Householder", "reflections", self.reflections)

    @property
    def sign(self) -> int:
        """That of the number of reflections: in one dimension each is y = -x."""
        return (-1) ** self.reflections

    def initial(self, input_dim: int) -> dict[str, Tensor]:
        """Creates random vectors in equal pairs."""
        return {"vectors": paired_vectors(self.reflections, input_dim)}

    def forward(self, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``Q x``."""
        return reflect(params["vectors"], x), x.new_zeros(())

    def inverse(self, y: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``Qᵀ y``."""
        return reflect(params["vectors"], y, side="transposed"), y.new_zeros(())


@dataclass(frozen=True)
class Rotation(VectorBijection):
    r"""A rotation made from a skew matrix, :math:`y = Q x`.

    With :math:`A = L - L^\top`, L strictly lower triangular, D(D−1)/2 parameters in all,

    - "exponential": :math:`Q = e^A` reaches every rotation;
    - "cayley": :math:`Q = (I + A)^{-1}(I - A)`, at a fraction of the cost, reaches every rotation
      but those that turn a plane by 180°, which it nears as A grows.

    Starts at the identity; the log-determinant is 0 and the inverse the transpose. Either
    direction costs O(D²) a point, after O(D³) once for each set of parameters.

    Parameters: ``lower`` ``(D(D-1)/2,)``, the entries of L row by row.

    Args:
        method: How Q is made: "exponential" or "cayley".

    Raises:
        ValueError: If ``method`` is neither.

    Examples:
        >>> import torch
        >>> from pyro_nf.bijections import Rotation
        >>> f = Rotation("cayley")
        >>> y, ladj = f.forward(torch.ones(3, 5), f.initial(3))  # five points in columns
        >>> y.shape, ladj
        (torch.Size([3, 5]), tensor(0.))
    """

    method: Literal["exponential", "cayley"] = "exponential"

    def __post_init__(self) -> None:
        """Checks the option."""
        choice("Rotation", "method", self.method, ("exponential", "cayley"))

    def initial(self, input_dim: int) -> dict[str, Tensor]:
        """Creates zeros."""
        return {"lower": torch.zeros(strict_count(input_dim))}

    def forward(self, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``Q x``."""
        return self._matrix(x, params) @ x, x.new_zeros(())

    def inverse(self, y: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``Qᵀ y``."""
        return self._matrix(y, params).mT @ y, y.new_zeros(())

    def _matrix(self, x: Tensor, params: Params) -> Tensor:
        """Q, shape ``(*batch, D, D)``."""
        lower = strictly_lower(params["lower"], x.shape[-2])
        skew = lower - lower.mT
        if self.method == "exponential":
            return torch.linalg.matrix_exp(skew)
        eye = torch.eye(x.shape[-2], dtype=skew.dtype, device=skew.device)
        # Never singular, so no check, for which the host would wait on an accelerator.
        return torch.linalg.solve_ex(eye + skew, eye - skew)[0]
