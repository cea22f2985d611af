"""Full linear maps by their LU or QR factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyro_nf._checks import choice, positive_int
from pyro_nf.bijections._matrices import (
    add_product,
    solve_columns,
    strict_count,
    strictly_lower,
    well_conditioned,
)
from pyro_nf.bijections._reflections import paired_vectors, reflect
from pyro_nf.bijections._vector import Params, VectorBijection

Bias = Literal["learned", "none"]
_LOG_SCALE_BOUND = 5.0


@dataclass(frozen=True)
class LULinear(VectorBijection):
    r"""A linear map by its factors, :math:`y = P \operatorname{diag}(e^s)(I + L)(I + U) x + b`.

    L is strictly lower and U strictly upper triangular, P a fixed permutation. Moved to the right,
    the scales become a positive diagonal of the upper factor, so this is every matrix PLU with
    unit lower L and positive diagonal of U. Outside they do not amplify rounding in a round trip.
    The off-diagonal entries are parameters divided by :math:`\sqrt D`, which keeps random factors
    well conditioned in any dimension.

    Starts at P. Either direction costs O(D²) a point (data -> base: two triangular solves), the
    log-determinant :math:`\sum_i s_i` O(D).

    Parameters: ``factors`` ``(D, D)``, packed as LAPACK does: L below the diagonal, U above it,
    here s on it; ``bias`` b ``(D,)``. Fixed: ``permutation`` ``(D,)``.

    Args:
        bias: "learned" adds b, which starts at 0; "none" does not.
        seed: Seed of the generator that draws P; None takes the identity.

    Raises:
        ValueError: If ``bias`` is neither.

    References:
        Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
        arXiv 1807.03039, section 3.2.

    Examples:
        >>> import torch
        >>> from pyro_nf.bijections import LULinear
        >>> from pyro_nf.transforms import Joint
        >>> y, ladj = Joint(LULinear(seed=0), 3).forward_and_ladj(torch.ones(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    bias: Bias = "learned"
    seed: int | None = None

    def __post_init__(self) -> None:
        """Checks the options."""
        choice("LULinear", "bias", self.bias, ("learned", "none"))

    def initial(self, input_dim: int) -> dict[str, Tensor]:
        """Creates zeros."""
        params = {"factors": torch.zeros(input_dim, input_dim)}
        return params | initial_bias(self.bias, input_dim)

    def fixed(self, input_dim: int) -> dict[str, Tensor]:
        """Creates the permutation; the global generator is left alone."""
        if self.seed is None:
            return {"permutation": torch.arange(input_dim)}
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(input_dim, generator=generator, device="cpu")
        return {"permutation": torch.tensor(order.tolist())}  # on the default device

    def forward(self, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``P diag(exp s)(I + L)(I + U) x + b``."""
        log_scale, lower, upper = self._unpacked(params)
        y = add_product(x, upper, x)
        y = add_product(y, lower, y) * log_scale.exp()
        y = y.index_select(-2, params["permutation"])
        return add_bias(y, params), log_scale.sum(-2)

    def inverse(self, y: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Undoes the factors one by one."""
        log_scale, lower, upper = self._unpacked(params)
        x = subtract_bias(y, params)
        # Derived at each pass, so that a permutation that was loaded or assigned counts at once.
        x = x.index_select(-2, params["permutation"].argsort()) * (-log_scale).exp()
        x = solve_columns(lower, x, side="lower")
        return solve_columns(upper, x, side="upper"), -log_scale.sum(-2)

    def _unpacked(self, params: Params) -> tuple[Tensor, Tensor, Tensor]:
        """The log-scales ``(*batch, D, 1)`` and the strict triangles L and U."""
        factors = params["factors"]
        mixing = well_conditioned(factors)
        log_scale = factors.diagonal(dim1=-2, dim2=-1)[..., None]
        return log_scale, mixing.tril(-1), mixing.triu(1)


@dataclass(frozen=True)
class QRLinear(VectorBijection):
    r"""A linear map by its factors, :math:`y = Q \operatorname{diag}(e^s)(I + U) x + b`.

    Q is a product of Householder reflections and U strictly upper triangular. With at least D
    reflections, every invertible matrix is of this form up to one sign; unlike an LU product it
    needs no permutation for that.

    Q mixes dimensions of different scale, so a round trip loses what the scales differ by: they
    are bounded softly, :math:`s = 5 \tanh(t/5)` for the parameter t. An ActNorm on the data side
    takes care of data whose units differ by more. The entries of U are parameters divided by
    :math:`\sqrt D`, which keeps random factors well conditioned in any dimension.

    Starts at the identity if the number of reflections is even. Either direction costs O(D² + KD)
    a point for K reflections, the log-determinant :math:`\sum_i s_i` O(D).

    Parameters: ``vectors`` ``(K, D)``, ``log_scale`` t ``(D,)``, ``upper`` ``(D(D-1)/2,)``, the
    entries of Uᵀ row by row, ``bias`` b ``(D,)``.

    Args:
        reflections: Number of reflections K; None takes the smallest even number that reaches
            every rotation.
        bias: "learned" adds b, which starts at 0; "none" does not.

    Raises:
        TypeError, ValueError: If ``bias`` is neither, or ``reflections`` not positive.

    References:
        Emerging Convolutions for Generative Normalizing Flows (Hoogeboom et al., 2019),
        arXiv 1901.11137, section 3.3.

    Examples:
        >>> import torch
        >>> from pyro_nf.bijections import QRLinear
        >>> from pyro_nf.transforms import Joint
        >>> y, ladj = Joint(QRLinear(), 3).forward_and_ladj(torch.ones(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    reflections: int | None = None
    bias: Bias = "learned"

    def __post_init__(self) -> None:
        """Checks the options."""
        choice("QRLinear", "bias", self.bias, ("learned", "none"))
        if self.reflections is not None:
            positive_int("QRLinear", "reflections", self.reflections)

    @property
    def sign(self) -> int:
        """That of the number of reflections: in one dimension each is y = -x."""
        return 1 if self.reflections is None else (-1) ** self.reflections

    def initial(self, input_dim: int) -> dict[str, Tensor]:
        """Creates random vectors in equal pairs, and zeros."""
        # A rotation is a product of an even number of reflections, at most D of them.
        even = max(2, input_dim - input_dim % 2)
        count = even if self.reflections is None else self.reflections
        params = {
            "vectors": paired_vectors(count, input_dim),
            "log_scale": torch.zeros(input_dim),
            "upper": torch.zeros(strict_count(input_dim)),
        }
        return params | initial_bias(self.bias, input_dim)

    def forward(self, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``Q diag(exp s)(I + U) x + b``."""
        log_scale, upper = self._scales_and_upper(x, params)
        y = reflect(params["vectors"], add_product(x, upper, x) * log_scale.exp())
        return add_bias(y, params), log_scale.sum(-2)

    def inverse(self, y: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Undoes the factors one by one."""
        log_scale, upper = self._scales_and_upper(y, params)
        x = reflect(params["vectors"], subtract_bias(y, params), side="transposed")
        x = solve_columns(upper, x * (-log_scale).exp(), side="upper")
        return x, -log_scale.sum(-2)

    def _scales_and_upper(self, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """The log-scales s ``(*batch, D, 1)`` and U ``(*batch, D, D)``."""
        raw = params["log_scale"][..., None]
        upper = well_conditioned(strictly_lower(params["upper"], x.shape[-2]).mT)
        return _LOG_SCALE_BOUND * (raw / _LOG_SCALE_BOUND).tanh(), upper


def initial_bias(bias: Bias, input_dim: int) -> dict[str, Tensor]:
    """The entry ``bias`` of a map's parameters, if it has one."""
    return {"bias": torch.zeros(input_dim)} if bias == "learned" else {}


def add_bias(y: Tensor, params: Params) -> Tensor:
    """``y + b``, or y where there is no bias."""
    return y + params["bias"][..., None] if "bias" in params else y


def subtract_bias(y: Tensor, params: Params) -> Tensor:
    """``y - b``, or y where there is no bias."""
    return y - params["bias"][..., None] if "bias" in params else y
