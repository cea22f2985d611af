"""Sylvester maps: many tanh units whose Jacobian stays triangular."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyro_nf._checks import choice, positive_int
from pyro_nf.bijections._matrices import strict_count, strictly_lower, well_conditioned
from pyro_nf.bijections._reflections import reflect
from pyro_nf.bijections._root import Root, check_root
from pyro_nf.bijections._tanh_units import admissible, log_slope, positive, undo
from pyro_nf.bijections._vector import Params, VectorBijection

Form = Literal["orthogonal", "householder", "triangular"]


@dataclass(frozen=True)
class Sylvester(VectorBijection):
    r"""A residual layer of M hidden units; with one unit, a planar map.

    .. math:: y = x + Q R \tanh(v), \quad v = S Q^\top x + b, \qquad
        \log|\det dy/dx| = \sum_{i=1}^M \log(1 + r_{ii} s_{ii} \tanh'(v_i))

    Q is D × M with orthonormal columns, R and S are upper triangular M × M. By Sylvester's
    identity the determinant is that of :math:`I + \operatorname{diag}(\tanh'(v)) S R`, triangular.
    The map is invertible if every :math:`r_{ii} s_{ii} > -1`: so each :math:`r_{ii}` is its
    parameter changed such that :math:`1 + r_{ii} s_{ii} = a + \sqrt{1 + a^2}`, with a the product
    of the two parameters. Q has one of three forms:

    - "orthogonal": the Gram-Schmidt basis of a D × M matrix, by its QR factors;
    - "householder": the first columns of a product of reflections;
    - "triangular": of the identity, or of the reversed identity; nothing is learned.

    Base -> data costs O(DM + M²) a point. Data -> base is as exact: :math:`v + S R \tanh(v) =
    S Q^\top y + b` is solved from the last unit to the first, each by one numerical root with the
    gradients of the implicit function, in M sequential steps. Making Q costs O(DM²) once for each
    set of parameters ("householder": O(DMK) for K reflections).

    Parameters: the diagonals ``left`` of R and ``right`` of S ``(M,)``, their entries above the
    diagonal ``left_upper`` and ``right_upper`` ``(M(M-1)/2,)``, taken by 1/√M, ``bias`` b
    ``(M,)``, and ``basis`` ``(D, M)`` or ``vectors`` ``(K, D)``; none that would be empty or
    without effect. A fresh map has R = 0: the identity.

    Args:
        form: The form of Q.
        units: Number M of hidden units; None takes D, and so does a number larger than D.
        reflections: Number K of reflections of the form "householder".
        order: "reversed" reverses the identity of the form "triangular"; alternate the two.
        root: How hard the inverse is searched for.

    Raises:
        TypeError, ValueError: If an option is unknown or a number not positive.

    References:
        Sylvester Normalizing Flows for Variational Inference (van den Berg et al., 2018), arXiv
        1803.05649, sections 3 and 4.

    Examples:
        >>> import torch
        >>> from pyro_nf.bijections import Sylvester
        >>> from pyro_nf.transforms import Joint
        >>> layer = Joint(Sylvester(units=2), 3)
        >>> y, ladj = layer.forward_and_ladj(torch.zeros(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    form: Form = "orthogonal"
    units: int | None = None
    reflections: int = 4
    order: Literal["natural", "reversed"] = "natural"
    root: Root = Root()

    def __post_init__(self) -> None:
        """Checks the options."""
        choice("Sylvester", "form", self.form, ("orthogonal", "householder", "triangular"))
        choice("Sylvester", "order", self.order, ("natural", "reversed"))
        check_root("Sylvester", self.root)
        positive_int("Sylvester", "reflections", self.reflections)
        if self.units is not None:
            positive_int("Sylvester", "units", self.units)

    def initial(self, input_dim: int) -> dict[str, Tensor]:
        """Creates R = 0, S = I, b = 0 and a random Q."""
        size = input_dim if self.units is None else min(self.units, input_dim)
        params = {"left": torch.zeros(size), "right": torch.ones(size), "bias": torch.zeros(size)}
        if size > 1:
            params["left_upper"] = torch.zeros(strict_count(size))
            params["right_upper"] = torch.zeros(strict_count(size))
        if input_dim > 1:  # in one dimension Q = 1 does for all
            if self.form == "orthogonal":
                params["basis"] = torch.randn(input_dim, size)
            if self.form == "householder":
                params["vectors"] = torch.randn(self.reflections, input_dim)
        return params

    def forward(self, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``x + Q R tanh(S Qᵀ x + b)``."""
        basis = self._basis(x, params)
        left, right, slope = _triangles(params)
        h = torch.tanh(right @ (basis.mT @ x) + params["bias"][..., None])  # (*batch, M, points)
        return x + basis @ (left @ h), log_slope(h, slope).sum(-2)

    def inverse(self, y: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``y - Q R tanh(v)`` with v by back-substitution of numerical roots."""
        basis = self._basis(y, params)
        left, right, slope = _triangles(params)
        system = (right @ left)[..., None]  # (*batch, M, M, 1)
        rest = right @ (basis.mT @ y) + params["bias"][..., None]  # (*batch, M, points)
        units: list[Tensor] = []
        ladj = torch.zeros_like(rest[..., 0, :])
        for i in reversed(range(rest.shape[-2])):
            v, unit_ladj = undo(rest[..., i, :], slope[..., i, :], self.root, "Sylvester")
            units.append(torch.tanh(v))
            ladj = ladj + unit_ladj
            # Rows above i lose what unit i contributes; what becomes of the others is not read.
            rest = rest[..., :i, :] - system[..., :i, i, :] * units[-1][..., None, :]
        h = torch.stack(units[::-1], dim=-2)
        return y - basis @ (left @ h), ladj

    def _basis(self, x: Tensor, params: Params) -> Tensor:
        """Q, shape ``(*batch, D, M)``."""
        if "basis" in params:
            q, r = torch.linalg.qr(params["basis"])
            # Unique and smooth only with a positive diagonal: LAPACK's signs jump. Of columns that
            # depend on each other the diagonal may be 0, which counts as positive.
            negative = r.diagonal(dim1=-2, dim2=-1)[..., None, :] < 0
            return torch.where(negative, -q, q)
        eye = torch.eye(x.shape[-2], params["left"].shape[-1], dtype=x.dtype, device=x.device)
        if "vectors" in params:
            return reflect(params["vectors"], eye)
        return eye if self.order == "natural" else eye.flip(0)


def _triangles(params: Params) -> tuple[Tensor, Tensor, Tensor]:
    """R and S ``(*batch, M, M)``, and the slopes 1 + r_ii s_ii ``(*batch, M, 1)``."""
    left, right = params["left"], params["right"]
    product = left * right
    slope = positive(product)
    left = left + admissible(left.square(), right, product, slope)
    if left.shape[-1] == 1:
        return left[..., None], right[..., None], slope[..., None]
    matrices = _upper(left, params["left_upper"]), _upper(right, params["right_upper"])
    return *matrices, slope[..., None]


def _upper(diagonal: Tensor, entries: Tensor) -> Tensor:
    """The upper triangular matrices of these diagonals ``(*batch, M)`` and entries above them."""
    above = well_conditioned(strictly_lower(entries, diagonal.shape[-1]).mT)
    return above + torch.diag_embed(diagonal)
