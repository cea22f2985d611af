"""Planar, radial and Sylvester layers under Pyro's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pyro_nf import bijections as B  # noqa: N812
from pyro_nf._checks import positive_int
from pyro_nf.nn.mlp import Activation
from pyro_nf.transforms._joint import JointWiring
from pyro_nf.transforms._pyro._defaults import half, network_options
from pyro_nf.transforms._pyro._given_network import GivenNetwork, outputs_of
from pyro_nf.transforms._pyro.networks import Network


class Planar(JointWiring):
    """A planar layer, as Pyro's ``Planar``, with an inverse: :class:`~pyro_nf.bijections.Planar`.

    A fresh layer is the identity. Base -> data costs O(D) a row; data -> base as much and one
    numerical root.

    Args:
        input_dim: Number D of dimensions.
        **network: ``context_dim``, ``hidden_dims``, ``activation`` and ``residual``, as
            :class:`~pyro_nf.transforms.Joint` takes them.

    Raises:
        TypeError, ValueError: If a size is out of range.

    References:
        Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015), arXiv:1505.05770.

    Examples:
        >>> import torch
        >>> from pyro_nf import transforms as T
        >>> T.Planar(3).inv(torch.ones(5, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(self, input_dim: int, **network: Any) -> None:
        super().__init__(B.Planar(), input_dim, **network)


class Radial(JointWiring):
    """A radial layer, as Pyro's ``Radial``, with an inverse: :class:`~pyro_nf.bijections.Radial`.

    A fresh layer is the identity. Either direction is closed form at O(D) a row.

    Args:
        input_dim: Number D of dimensions.
        **network: ``context_dim``, ``hidden_dims``, ``activation`` and ``residual``, as
            :class:`~pyro_nf.transforms.Joint` takes them.

    Raises:
        TypeError, ValueError: If a size is out of range.

    References:
        Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015), arXiv:1505.05770.

    Examples:
        >>> import torch
        >>> from pyro_nf import transforms as T
        >>> T.Radial(3).inv(torch.ones(5, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(self, input_dim: int, **network: Any) -> None:
        super().__init__(B.Radial(), input_dim, **network)


class Sylvester(JointWiring):
    """A Sylvester layer in its Householder form, as Pyro's ``Sylvester``, with an inverse.

    It has D hidden units, see :class:`~pyro_nf.bijections.Sylvester`; the log-determinant that
    Pyro's class returns is another map's. A fresh layer is the identity. Base -> data costs O(D²)
    a row; data -> base as much and D numerical roots, one after the other. The orthogonal factor
    of K reflections costs O(D² K) once.

    Args:
        input_dim: Number D of dimensions.
        count_transforms: Number of reflections that make the orthogonal factor.
        **network: ``context_dim``, ``hidden_dims``, ``activation`` and ``residual``, as
            :class:`~pyro_nf.transforms.Joint` takes them.

    Raises:
        TypeError, ValueError: If a size is out of range.

    References:
        Sylvester Normalizing Flows for Variational Inference (van den Berg et al., 2018),
        arXiv:1803.05649.

    Examples:
        >>> import torch
        >>> from pyro_nf import transforms as T
        >>> T.Sylvester(3, count_transforms=2).inv(torch.ones(5, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(self, input_dim: int, count_transforms: int = 1, **network: Any) -> None:
        count = positive_int("Sylvester", "count_transforms", count_transforms)
        bijection = B.Sylvester(form="householder", reflections=count)
        super().__init__(bijection, input_dim, **network)


class ConditionalPlanar(GivenNetwork):
    """A planar layer whose parameters a given network makes of the context, as Pyro's.

    It costs one pass of the network for each context, and then what :class:`Planar` costs, whose
    source is its own.

    Args:
        nn: Maps a context ``(*batch, context_dim)`` to b, u and w, of sizes 1, D and D.
        input_dim: Number D of dimensions; None for what ``nn.param_dims`` says.
        context_dim: Size of the context; None for ``nn.input_dim``.

    Raises:
        TypeError: If the network is no callable, or makes no tensors.
        ValueError: If a size is neither given nor said by the network, or what it makes differs.

    Examples:
        >>> import torch
        >>> from pyro.nn import DenseNN
        >>> from pyro_nf import transforms as T
        >>> layer = T.ConditionalPlanar(DenseNN(2, [10], param_dims=[1, 3, 3]))
        >>> layer.condition(torch.zeros(5, 2)).forward_shape((3,))
        torch.Size([5, 3])
    """

    def __init__(
        self, nn: Network, *, input_dim: int | None = None, context_dim: int | None = None
    ) -> None:
        size = outputs_of(nn, 2, input_dim, "ConditionalPlanar")
        super().__init__(B.Planar(), size, nn, context_dim)

    def _sizes(self) -> tuple[int, ...]:
        return 1, self.input_dim, self.input_dim

    def _read(self, made: Sequence[Tensor]) -> dict[str, Tensor]:
        bias, scale, weight = made
        return {"weight": weight, "scale": scale, "bias": bias.squeeze(-1)}


class ConditionalRadial(GivenNetwork):
    """A radial layer whose parameters a given network makes of the context, as Pyro's.

    It costs one pass of the network for each context, and then what :class:`Radial` costs, whose
    source is its own.

    Args:
        nn: Maps a context ``(*batch, context_dim)`` to the centre, the raw radius and the raw
            factor, of sizes D, 1 and 1.
        input_dim: Number D of dimensions; None for what ``nn.param_dims`` says.
        context_dim: Size of the context; None for ``nn.input_dim``.

    Raises:
        TypeError: If the network is no callable, or makes no tensors.
        ValueError: If a size is neither given nor said by the network, or what it makes differs.

    Examples:
        >>> import torch
        >>> from pyro.nn import DenseNN
        >>> from pyro_nf import transforms as T
        >>> layer = T.ConditionalRadial(DenseNN(2, [10], param_dims=[3, 1, 1]))
        >>> layer.condition(torch.zeros(5, 2)).forward_shape((3,))
        torch.Size([5, 3])
    """

    def __init__(
        self, nn: Network, *, input_dim: int | None = None, context_dim: int | None = None
    ) -> None:
        size = outputs_of(nn, 0, input_dim, "ConditionalRadial")
        super().__init__(B.Radial(), size, nn, context_dim)

    def _sizes(self) -> tuple[int, ...]:
        return self.input_dim, 1, 1

    def _read(self, made: Sequence[Tensor]) -> dict[str, Tensor]:
        origin, radius, factor = made
        return {
            "origin": origin,
            "raw_radius": radius.squeeze(-1),
            "raw_factor": factor.squeeze(-1),
        }


def planar(input_dim: int) -> Planar:
    """Creates a :class:`Planar` layer of learned constants, as Pyro's ``planar``.

    Cost, errors, source: see :class:`Planar`.

    Args:
        input_dim: Number of dimensions.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.planar(3).input_dim
        3
    """
    return Planar(input_dim)


def conditional_planar(
    input_dim: int,
    context_dim: int,
    hidden_dims: Sequence[int] | None = None,
    *,
    nonlinearity: Activation = "relu",
) -> Planar:
    """Creates a :class:`Planar` layer that depends on a context.

    Cost, errors, source: see :class:`Planar`.

    Args:
        input_dim: Number D of dimensions.
        context_dim: Size of the context.
        hidden_dims: Widths of the network; ``[10 D, 10 D]`` by default.
        nonlinearity: The network's activation.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.conditional_planar(3, 2).context_dim
        2
    """
    return Planar(input_dim, **network_options(input_dim, context_dim, hidden_dims, nonlinearity))


def radial(input_dim: int) -> Radial:
    """Creates a :class:`Radial` layer of learned constants, as Pyro's ``radial``.

    Cost, errors, source: see :class:`Radial`.

    Args:
        input_dim: Number of dimensions.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.radial(3).input_dim
        3
    """
    return Radial(input_dim)


def conditional_radial(
    input_dim: int,
    context_dim: int,
    hidden_dims: Sequence[int] | None = None,
    *,
    nonlinearity: Activation = "relu",
) -> Radial:
    """Creates a :class:`Radial` layer that depends on a context.

    Cost, errors, source: see :class:`Radial`.

    Args:
        input_dim: Number D of dimensions.
        context_dim: Size of the context.
        hidden_dims: Widths of the network; ``[10 D, 10 D]`` by default.
        nonlinearity: The network's activation.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.conditional_radial(3, 2).context_dim
        2
    """
    return Radial(input_dim, **network_options(input_dim, context_dim, hidden_dims, nonlinearity))


def sylvester(input_dim: int, count_transforms: int | None = None) -> Sylvester:
    """Creates a :class:`Sylvester` layer of learned constants, as Pyro's ``sylvester``.

    Cost, errors, source: see :class:`Sylvester`.

    Args:
        input_dim: Number D of dimensions.
        count_transforms: Number of reflections; ⌊D/2⌋ + 1 by default.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.sylvester(4).bijection.reflections
        3
    """
    return Sylvester(input_dim, half(input_dim) if count_transforms is None else count_transforms)


def conditional_sylvester(
    input_dim: int,
    context_dim: int,
    hidden_dims: Sequence[int] | None = None,
    count_transforms: int | None = None,
    *,
    nonlinearity: Activation = "relu",
) -> Sylvester:
    """Creates a :class:`Sylvester` layer that depends on a context.

    Cost, errors, source: see :class:`Sylvester`.

    Args:
        input_dim: Number D of dimensions.
        context_dim: Size of the context.
        hidden_dims: Widths of the network; ``[10 D, 10 D]`` by default.
        count_transforms: Number of reflections; ⌊D/2⌋ + 1 by default.
        nonlinearity: The network's activation.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.conditional_sylvester(4, 2).context_dim
        2
    """
    return Sylvester(
        input_dim,
        half(input_dim) if count_transforms is None else count_transforms,
        **network_options(input_dim, context_dim, hidden_dims, nonlinearity),
    )
