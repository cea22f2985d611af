"""Householder and matrix-exponential layers under Pyro's names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_nf import bijections as B  # noqa: N812
from pyro_nf._checks import choice, positive_float, positive_int
from pyro_nf.bijections._vector import Params, VectorBijection
from pyro_nf.nn._spectral import top_singular_value
from pyro_nf.nn.mlp import Activation
from pyro_nf.transforms._joint import JointWiring
from pyro_nf.transforms._pyro._defaults import half, network_options
from pyro_nf.transforms._pyro._given_network import GivenNetwork
from pyro_nf.transforms._pyro.networks import Network
from pyro_nf.transforms.householder import Householder

Normalization = Literal["none", "weight", "spectral"]


@dataclass(frozen=True)
class Exponential(VectorBijection):
    r"""A linear map :math:`y = e^M x` whose exponent may have a bounded norm.

    With a normalization, :math:`M = A / \sqrt{1 + (|A| / \mathrm{bound})^2}`, which is smooth and
    keeps :math:`|M| < \mathrm{bound}`. Parameters: ``weight`` √D A, ``(D, D)``.

    Args:
        normalization: The norm that is bounded: "weight" for Frobenius', "spectral" for the
            largest singular value, "none" for neither.
        bound: Its bound.
    """

    normalization: Normalization = "none"
    bound: float = 1.0

    def initial(self, input_dim: int) -> dict[str, Tensor]:
        """Creates zeros."""
        return _PLAIN.initial(input_dim)

    def forward(self, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``exp(M) x``."""
        return _PLAIN.forward(x, self._bounded(params))

    def inverse(self, y: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``exp(-M) y``."""
        return _PLAIN.inverse(y, self._bounded(params))

    def _bounded(self, params: Params) -> Params:
        weight = params["weight"]
        if self.normalization == "none":
            return {"weight": weight}
        if self.normalization == "weight":
            square = weight.square().sum((-2, -1), keepdim=True)
        else:
            square = top_singular_value(weight)[..., None, None].square()
        size = weight.shape[-1]
        return {"weight": weight / (1 + square / (size * self.bound**2)).sqrt()}


_PLAIN = B.MatrixExponential(bias="none", bound=None)


def _exponential(
    iterations: int, normalization: Normalization, bound: float | None
) -> Exponential:
    positive_int("MatrixExponential", "iterations", iterations)
    choice("MatrixExponential", "normalization", normalization, ("none", "weight", "spectral"))
    limit = 1.0 if bound is None else positive_float("MatrixExponential", "bound", bound)
    return Exponential(normalization, limit)


class MatrixExponential(JointWiring):
    r"""The linear layer :math:`y = e^M x`, as Pyro's ``MatrixExponential``.

    The exponential is exact to rounding, where Pyro's is the first terms of a series, and both
    normalizations work. The log-determinant is the trace of M, and the inverse :math:`e^{-M}`.
    A fresh layer is the identity. Either direction costs O(D²) a row, after O(D³) once.

    Args:
        input_dim: Number D of dimensions.
        iterations: As Pyro's takes it, a positive integer; no series is cut here.
        normalization: The norm of M that is kept below ``bound``: "weight" for Frobenius',
            "spectral" for the largest singular value, "none" for neither.
        bound: Bound of that norm; None for 1.
        **network: ``context_dim``, ``hidden_dims``, ``activation`` and ``residual``, as
            :class:`~pyro_nf.transforms.Joint` takes them.

    Raises:
        TypeError, ValueError: If an option is out of its range or unknown.

    References:
        The Convolution Exponential and Generalized Sylvester Flows (Hoogeboom et al., 2020),
        arXiv:2006.01910.

    Examples:
        >>> import torch
        >>> from pyro_nf import transforms as T
        >>> layer = T.MatrixExponential(3, normalization="spectral", bound=2.0)
        >>> layer(torch.ones(5, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        input_dim: int,
        iterations: int = 8,
        normalization: Normalization = "none",
        bound: float | None = None,
        **network: Any,
    ) -> None:
        super().__init__(_exponential(iterations, normalization, bound), input_dim, **network)


class ConditionalMatrixExponential(GivenNetwork):
    """The layer of :class:`MatrixExponential` with M made by a given network, as Pyro's.

    It costs one pass of the network and O(D³) for each context, then O(D²) a row in either
    direction. The source is that of :class:`MatrixExponential`.

    Args:
        input_dim: Number D of dimensions.
        nn: Maps a context ``(*batch, context_dim)`` to M, row by row, ``(*batch, D · D)``.
        iterations: As Pyro's takes it; no series is cut here.
        normalization: "none", "weight" or "spectral".
        bound: Bound of that norm; None for 1.
        context_dim: Size of the context; None for ``nn.input_dim``.

    Raises:
        TypeError, ValueError: If an option is out of its range or unknown.

    Examples:
        >>> import torch
        >>> from pyro.nn import DenseNN
        >>> from pyro_nf import transforms as T
        >>> layer = T.ConditionalMatrixExponential(3, DenseNN(2, [10], param_dims=[9]))
        >>> layer.condition(torch.zeros(5, 2)).forward_shape((3,))
        torch.Size([5, 3])
    """

    def __init__(
        self,
        input_dim: int,
        nn: Network,
        iterations: int = 8,
        normalization: Normalization = "none",
        bound: float | None = None,
        *,
        context_dim: int | None = None,
    ) -> None:
        bijection = _exponential(iterations, normalization, bound)
        super().__init__(bijection, input_dim, nn, context_dim)

    def _sizes(self) -> tuple[int, ...]:
        return (self.input_dim**2,)

    def _read(self, made: Sequence[Tensor]) -> dict[str, Tensor]:
        size = self.input_dim
        return {"weight": made[0].unflatten(-1, (size, size)) * math.sqrt(size)}


class ConditionalHouseholder(GivenNetwork):
    """A product of K reflections whose normals a given network makes, as Pyro's.

    It costs one pass of the network for each context, then O(KD + K²) a row in either direction.
    The source is that of :class:`Householder`.

    Args:
        input_dim: Number D of dimensions.
        nn: Maps a context ``(*batch, context_dim)`` to a vector ``(*batch, D)``, or a tuple of
            ``count_transforms`` of them; their reflections apply in that order.
        count_transforms: Number K of reflections.
        context_dim: Size of the context; None for ``nn.input_dim``.

    Raises:
        TypeError, ValueError: If a size is out of range or unknown.

    Examples:
        >>> import torch
        >>> from pyro.nn import DenseNN
        >>> from pyro_nf import transforms as T
        >>> layer = T.ConditionalHouseholder(3, DenseNN(2, [10], param_dims=[3, 3]), 2)
        >>> layer.condition(torch.zeros(5, 2)).forward_shape((3,))
        torch.Size([5, 3])
    """

    def __init__(
        self,
        input_dim: int,
        nn: Network,
        count_transforms: int = 1,
        *,
        context_dim: int | None = None,
    ) -> None:
        count = positive_int("ConditionalHouseholder", "count_transforms", count_transforms)
        super().__init__(B.Householder(count), input_dim, nn, context_dim)
        self.count_transforms = count

    def _sizes(self) -> tuple[int, ...]:
        return (self.input_dim,) * self.count_transforms

    def _read(self, made: Sequence[Tensor]) -> dict[str, Tensor]:
        # The last of them applies first in the bijection.
        return {"vectors": torch.stack(tuple(made), -2).flip(-2)}


def householder(input_dim: int, count_transforms: int | None = None) -> Householder:
    """Creates a :class:`Householder` layer of learned constants, as Pyro's ``householder``.

    Cost, errors, source: see :class:`Householder`.

    Args:
        input_dim: Number D of dimensions.
        count_transforms: Number of reflections; ⌊D/2⌋ + 1 by default.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.householder(4).bijection.reflections
        3
    """
    count = half(input_dim) if count_transforms is None else count_transforms
    return Householder(input_dim, count)


def conditional_householder(
    input_dim: int,
    context_dim: int,
    hidden_dims: Sequence[int] | None = None,
    count_transforms: int = 1,
    *,
    nonlinearity: Activation = "relu",
) -> Householder:
    """Creates a :class:`Householder` layer that depends on a context.

    Cost, errors, source: see :class:`Householder`.

    Args:
        input_dim: Number D of dimensions.
        context_dim: Size of the context.
        hidden_dims: Widths of the network; ``[10 D, 10 D]`` by default.
        count_transforms: Number of reflections.
        nonlinearity: The network's activation.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.conditional_householder(4, 2).context_dim
        2
    """
    options = network_options(input_dim, context_dim, hidden_dims, nonlinearity)
    return Householder(input_dim, count_transforms, **options)


def matrix_exponential(
    input_dim: int,
    iterations: int = 8,
    normalization: Normalization = "none",
    bound: float | None = None,
) -> MatrixExponential:
    """Creates a :class:`MatrixExponential` layer of learned constants, as Pyro's factory.

    Cost, errors, source: see :class:`MatrixExponential`.

    Args:
        input_dim: Number D of dimensions.
        iterations: As Pyro's takes it; no series is cut here.
        normalization: The norm that is kept below ``bound``: "none", "weight" or "spectral".
        bound: Bound of that norm; None for 1.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.matrix_exponential(3, normalization="weight", bound=0.5).bijection.bound
        0.5
    """
    return MatrixExponential(input_dim, iterations, normalization, bound)


def conditional_matrix_exponential(
    input_dim: int,
    context_dim: int,
    hidden_dims: Sequence[int] | None = None,
    iterations: int = 8,
    normalization: Normalization = "none",
    bound: float | None = None,
    *,
    nonlinearity: Activation = "relu",
) -> MatrixExponential:
    """Creates a :class:`MatrixExponential` layer that depends on a context.

    Cost, errors, source: see :class:`MatrixExponential`.

    Args:
        input_dim: Number D of dimensions.
        context_dim: Size of the context.
        hidden_dims: Widths of the network; ``[10 D, 10 D]`` by default.
        iterations: As Pyro's takes it; no series is cut here.
        normalization: The norm that is kept below ``bound``: "none", "weight" or "spectral".
        bound: Bound of that norm; None for 1.
        nonlinearity: The network's activation.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.conditional_matrix_exponential(3, 2).context_dim
        2
    """
    options = network_options(input_dim, context_dim, hidden_dims, nonlinearity)
    return MatrixExponential(input_dim, iterations, normalization, bound, **options)
