"""The matrix of an invertible 1×1 convolution in three parametrisations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_nf.bijections import LULinear, QRLinear
from pyro_nf.bijections._reflections import reflect
from pyro_nf.bijections._vector import Params, VectorBijection
from pyro_nf.transforms._images.determinant import Factors, factorize


@dataclass(frozen=True)
class PLUWeight(VectorBijection):
    r"""Permuted triangles and signs, :math:`P \operatorname{diag}(e^s)(I + L)(I + U) σ`.

    Args:
        seed: Seed of the rotation at which it starts; None starts at the identity.
    """

    seed: int | None

    def initial(self, input_dim: int) -> dict[str, Tensor]:
        """Creates the factors of the rotation."""
        if self.seed is None:
            return LULinear("none").initial(input_dim)
        return {"factors": _as_default(self._start(self.seed, input_dim)["factors"])}

    def fixed(self, input_dim: int) -> dict[str, Tensor]:
        """Creates the permutation and the signs of the rotation's factors."""
        if self.seed is None:
            return LULinear("none").fixed(input_dim) | {"signs": torch.ones(input_dim)}
        start = self._start(self.seed, input_dim)
        order = torch.tensor(start["permutation"].tolist())  # on the default device
        return {"permutation": order, "signs": _as_default(start["signs"])}

    def forward(self, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``W x``."""
        return LULinear("none").forward(_signs(params, x) * x, params)

    def inverse(self, y: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``W⁻¹ y``."""
        x, ladj = LULinear("none").inverse(y, params)
        return _signs(params, x) * x, ladj

    @staticmethod
    def _start(seed: int, size: int) -> dict[str, Tensor]:
        """What gives the rotation R exactly.

        1. R = P L diag(d) U with unit triangles, which LAPACK finds; d = |d| σ.
        2. Moved to the left, |d| turns L into |d|⁻¹ L |d|; moved to the right, σ turns U into
           σ U σ. Both stay unit triangles.
        3. The strict triangles are kept times √D, as ``LULinear`` reads them.
        """
        permutation, lower, upper = torch.linalg.lu(random_rotation(size, seed).matrix)
        d = upper.diagonal()
        scale, signs = d.abs(), d.sign()
        lower = lower * scale / scale[:, None]
        upper = upper / d[:, None] * signs[:, None] * signs
        triangles = (lower.tril(-1) + upper.triu(1)) * size**0.5
        return {
            "factors": triangles + scale.log().diag(),
            "permutation": permutation.argmax(1),
            "signs": signs,
        }


@dataclass(frozen=True)
class QRWeight(VectorBijection):
    r"""Reflections, a triangle and signs, :math:`Q \operatorname{diag}(e^s)(I + U) σ`.

    Args:
        seed: Seed of the rotation at which it starts; None starts at the identity.
    """

    seed: int | None

    def initial(self, input_dim: int) -> dict[str, Tensor]:
        """Creates the rotation's reflections, and zeros."""
        params = QRLinear(bias="none").initial(input_dim)
        if self.seed is None:
            return params
        vectors = random_rotation(input_dim, self.seed).vectors
        return params | {"vectors": _as_default(vectors)}

    def fixed(self, input_dim: int) -> dict[str, Tensor]:
        """Creates the signs."""
        if self.seed is None:
            return {"signs": torch.ones(input_dim)}
        return {"signs": _as_default(random_rotation(input_dim, self.seed).signs)}

    def forward(self, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``W x``."""
        return QRLinear(bias="none").forward(_signs(params, x) * x, params)

    def inverse(self, y: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``W⁻¹ y``."""
        x, ladj = QRLinear(bias="none").inverse(y, params)
        return _signs(params, x) * x, ladj


@dataclass(frozen=True)
class PlainWeight(VectorBijection):
    """The matrix itself.

    Args:
        seed: Seed of the rotation at which it starts; None starts at the identity.
    """

    seed: int | None

    def initial(self, input_dim: int) -> dict[str, Tensor]:
        """Creates the rotation."""
        if self.seed is None:
            return {"weight": torch.eye(input_dim)}
        return {"weight": _as_default(random_rotation(input_dim, self.seed).matrix)}

    def forward(self, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``W x``."""
        log_det = self._factors(params["weight"]).log_det
        return params["weight"] @ x, log_det[..., None]

    def inverse(self, y: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``W⁻¹ y``."""
        factors = self._factors(params["weight"])
        return factors.solve(y), -factors.log_det[..., None]

    def _factors(self, weight: Tensor) -> Factors:
        remedy = 'Train with weight="plu" or weight="qr", which are never singular.'
        return factorize("InvertibleConv1x1", 'a weight="plain"', weight, remedy)


class RandomRotation(NamedTuple):
    """A rotation drawn uniformly, in float64 on the CPU.

    Attributes:
        vectors: Normals of D reflections, ``(D, D)``; their product is Q.
        signs: Signs σ, ``(D,)``.
        matrix: The rotation Q diag(σ), ``(D, D)``.
    """

    vectors: Tensor
    signs: Tensor
    matrix: Tensor


def random_rotation(size: int, seed: int) -> RandomRotation:
    """Draws a rotation by a generator of its own.

    The k-th reflection takes the k-th unit vector to a random direction of the last D - k + 1
    dimensions, which makes Q diag(σ) uniform over the orthogonal matrices (Stewart, 1980); the
    last sign is then set so that it is a rotation.
    """
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(size, size, generator=generator, dtype=torch.float64, device="cpu")
    directions = normal.triu()
    firsts = directions.diagonal()
    vectors = directions + (directions.norm(dim=1) * firsts.sign()).diag()
    signs = -firsts.sign()
    signs[-1] *= (-1) ** size * signs.prod()  # each reflection has the determinant -1
    eye = torch.eye(size, dtype=torch.float64, device="cpu")
    return RandomRotation(vectors, signs, reflect(vectors, eye) * signs)


def _as_default(tensor: Tensor) -> Tensor:
    """The same numbers in the default dtype on the default device."""
    return torch.tensor(tensor.tolist())


def _signs(params: Params, x: Tensor) -> Tensor:
    return params["signs"].to(x.dtype)[:, None]
