"""Linear maps by the exponential of a matrix: of any, or of one of low rank."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_nf._checks import choice, positive_float, positive_int
from pyro_nf.bijections._matrices import softly_bounded, well_conditioned
from pyro_nf.bijections._vector import Params, VectorBijection
from pyro_nf.bijections.factored import Bias, add_bias, initial_bias, subtract_bias

_FACTOR_BOUND = math.sqrt(5)  # of each factor of a product that is bounded by 5


@dataclass(frozen=True)
class MatrixExponential(VectorBijection):
    r"""A linear map by the exponential, :math:`y = e^{A/\sqrt D} x + b` for any matrix A.

    Its log-determinant is the trace of the exponent and its inverse the exponential of the
    negative: no factor, no solve, no singular A. Reaches matrices with a real logarithm: negative
    eigenvalues come in equal pairs. The division by √D keeps the map well conditioned for random A
    in any dimension. One common factor keeps the root mean square of A softly below ``bound``: of
    exponentials much larger floating point cannot find the inverse.

    Starts at the identity. Either direction costs O(D²) a point, after O(D³) once for each set of
    parameters.

    Parameters: ``weight`` ``(D, D)``, A before the bound, ``bias`` b ``(D,)``.

    Args:
        bias: "learned" adds b, which starts at 0; "none" does not.
        bound: The bound of the root mean square of A's entries; None for none.

    Raises:
        TypeError, ValueError: If ``bias`` is neither or ``bound`` not positive.

    References:
        - The Convolution Exponential and Generalized Sylvester Flows (Hoogeboom et al., 2020),
          arXiv 2006.01910.
        - Generative Flows with Matrix Exponential (Xiao & Liu, 2020), arXiv 2007.09651.

    Examples:
        >>> import torch
        >>> from pyro_nf.bijections import MatrixExponential
        >>> from pyro_nf.transforms import Joint
        >>> y, ladj = Joint(MatrixExponential(), 3).forward_and_ladj(torch.ones(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    bias: Bias = "learned"
    bound: float | None = 5.0

    def __post_init__(self) -> None:
        """Checks the options."""
        choice("MatrixExponential", "bias", self.bias, ("learned", "none"))
        if self.bound is not None:
            positive_float("MatrixExponential", "bound", self.bound)

    def initial(self, input_dim: int) -> dict[str, Tensor]:
        """Creates zeros."""
        return {"weight": torch.zeros(input_dim, input_dim)} | initial_bias(self.bias, input_dim)

    def forward(self, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``exp(A/√D) x + b``."""
        exponent = self._exponent(params)
        return add_bias(torch.linalg.matrix_exp(exponent) @ x, params), _trace(exponent)

    def inverse(self, y: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``exp(-A/√D) (y - b)``."""
        exponent = -self._exponent(params)
        return torch.linalg.matrix_exp(exponent) @ subtract_bias(y, params), _trace(exponent)

    def _exponent(self, params: Params) -> Tensor:
        """A/√D, shape ``(*batch, D, D)``."""
        weight = params["weight"]
        bounded = weight if self.bound is None else softly_bounded(weight, self.bound)
        return well_conditioned(bounded)


@dataclass(frozen=True)
class Woodbury(VectorBijection):
    r"""A diagonal plus a matrix of low rank K, invertible whatever the parameters.

    .. math:: y = \operatorname{diag}(e^s)(I + U F V^\top) x + b, \qquad
        F = φ(V^\top U), \quad φ(A) = \sum_{k \ge 0} \frac{A^k}{(k+1)!}

    with U and V of shape (D, K). Since :math:`A φ(A) = e^A - I`,

    1. the matrix determinant lemma gives :math:`\det(I + U F V^\top) = \det(I + V^\top U F) =
       \det e^{V^\top U}`: the log-determinant is :math:`\sum_i s_i + \operatorname{tr} V^\top U`;
    2. Woodbury's identity gives :math:`(I + U F V^\top)^{-1} = I - U φ(-V^\top U) V^\top`. Both
       say that :math:`I + U F V^\top = e^{U V^\top}`.

    U and V are parameters divided by √D, their root mean squares softly bounded by √5: of larger
    exponentials floating point cannot find the inverse. The maps reached are those of rank K whose
    core :math:`I + V^\top U F` has a real logarithm within the bounds.

    Starts at the identity. Either direction costs O(KD) a point, after O(K²D + K³) once for each
    set of parameters.

    Parameters: ``log_scale`` s ``(D,)``, ``left`` U and ``right`` V ``(D, K)``, ``bias`` b
    ``(D,)``.

    Args:
        rank: The rank K.
        bias: "learned" adds b, which starts at 0; "none" does not.

    Raises:
        TypeError, ValueError: If ``rank`` is no positive integer or ``bias`` neither.

    References:
        Woodbury Transformations for Deep Generative Flows (Lu & Huang, 2020), arXiv 2002.12229,
        where F = I, and singular maps are not excluded.

    Examples:
        >>> import torch
        >>> from pyro_nf.bijections import Woodbury
        >>> from pyro_nf.transforms import Joint
        >>> y, ladj = Joint(Woodbury(rank=2), 3).forward_and_ladj(torch.ones(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    rank: int = 1
    bias: Bias = "learned"

    def __post_init__(self) -> None:
        """Checks the options."""
        positive_int("Woodbury", "rank", self.rank)
        choice("Woodbury", "bias", self.bias, ("learned", "none"))

    def initial(self, input_dim: int) -> dict[str, Tensor]:
        """Creates a random V, and zeros."""
        params = {
            "log_scale": torch.zeros(input_dim),
            "left": torch.zeros(input_dim, self.rank),
            "right": torch.randn(input_dim, self.rank),
        }
        return params | initial_bias(self.bias, input_dim)

    def forward(self, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``exp(s) (x + U φ(VᵀU) Vᵀ x) + b``."""
        left, right, product, log_scale = _unpacked(params)
        mixed = x + left @ (_phi(product) @ (right.mT @ x))
        ladj = log_scale.sum(-2) + _trace(product)
        return add_bias(mixed * log_scale.exp(), params), ladj

    def inverse(self, y: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``z - U φ(-VᵀU) Vᵀ z`` with ``z = exp(-s) (y - b)``."""
        left, right, product, log_scale = _unpacked(params)
        z = subtract_bias(y, params) * (-log_scale).exp()
        x = z - left @ (_phi(-product) @ (right.mT @ z))
        return x, -log_scale.sum(-2) - _trace(product)


def _unpacked(params: Params) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """U and V ``(*batch, D, K)``, VᵀU ``(*batch, K, K)`` and s ``(*batch, D, 1)``."""
    root = math.sqrt(params["left"].shape[-2])
    left, right = (
        softly_bounded(params[name], _FACTOR_BOUND) / root for name in ("left", "right")
    )
    return left, right, right.mT @ left, params["log_scale"][..., None]


def _phi(matrix: Tensor) -> Tensor:
    """φ(A), the upper right block of exp([[A, I], [0, 0]])."""
    size = matrix.shape[-1]
    eye = torch.eye(size, dtype=matrix.dtype, device=matrix.device).expand(matrix.shape)
    upper = torch.cat([matrix, eye], -1)
    block = torch.cat([upper, torch.zeros_like(upper)], -2)
    return torch.linalg.matrix_exp(block)[..., :size, size:]


def _trace(matrix: Tensor) -> Tensor:
    """The trace, shape ``(*batch, 1)``."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
