"""Invertible 1×1 convolutions under Pyro's names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_nf import bijections as B  # noqa: N812
from pyro_nf.nn.mlp import Activation
from pyro_nf.transforms._contract.protocol import FlowTransform
from pyro_nf.transforms._pyro._given_network import GivenNetwork
from pyro_nf.transforms._pyro.networks import Network
from pyro_nf.transforms.channel import GeneralizedChannelPermute


class ConditionalGeneralizedChannelPermute(FlowTransform):
    """A 1×1 convolution whose weights a given network makes of the context, as Pyro's.

    See :class:`GeneralizedChannelPermute`. The diagonal of what the network makes is the logarithm
    of the scales, so that every weight is invertible; in Pyro's it is the scales themselves. It
    costs one pass of the network for each context, then O(C²) a pixel in either direction; the
    source is that of :class:`GeneralizedChannelPermute`.

    Args:
        nn: Maps a context ``(*batch, context_dim)`` to the packed factors, ``(*batch, C · C)``:
            row by row, L below the diagonal, U above it, the log-scales on it.
        channels: Number C of channels.
        permutation: The fixed permutation of the channels; the identity by default.
        context_dim: Size of the context; None for ``nn.input_dim``.

    Raises:
        TypeError, ValueError: If a size is out of range or unknown.

    Examples:
        >>> import torch
        >>> from pyro.nn import DenseNN
        >>> from pyro_nf import transforms as T
        >>> layer = T.ConditionalGeneralizedChannelPermute(DenseNN(2, [10], param_dims=[9]))
        >>> layer.condition(torch.zeros(5, 2)).forward_shape((3, 8, 8))
        torch.Size([5, 3, 8, 8])
    """

    domain = codomain = constraints.independent(constraints.real, 3)

    def __init__(
        self,
        nn: Network,
        channels: int = 3,
        permutation: Sequence[int] | Tensor | None = None,
        *,
        context_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.convolution = GeneralizedChannelPermute(channels, permutation)
        order = self.convolution.mixing.permutation
        self.convolution.mixing = _GivenFactors(nn, channels, order, context_dim)
        self.context_dim = self.convolution.context_dim = self.convolution.mixing.context_dim
        self.reusable = self.convolution.mixing.reusable

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps the channels of each pixel."""
        return self.convolution.forward_and_ladj(x, context)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps the channels of each pixel by the inverse."""
        return self.convolution.inverse_and_ladj(y, context)

    def _forward_shape(self, shape: torch.Size) -> torch.Size:
        return self.convolution._forward_shape(shape)

    def _inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self.convolution._inverse_shape(shape)

    def extra_repr(self) -> str:
        """Nothing: the convolution says its sizes."""
        return ""


class _GivenFactors(GivenNetwork):
    """The linear map of the channels, its factors made by a given network."""

    _owner = "ConditionalGeneralizedChannelPermute"

    def __init__(
        self, network: Network, channels: int, order: Tensor, context_dim: int | None
    ) -> None:
        super().__init__(B.LULinear("none"), channels, network, context_dim)
        self.permutation = order

    def _sizes(self) -> tuple[int, ...]:
        return (self.input_dim**2,)

    def _read(self, made: Sequence[Tensor]) -> dict[str, Tensor]:
        return {"factors": made[0].unflatten(-1, (self.input_dim, self.input_dim))}


def generalized_channel_permute(
    channels: int = 3,
    permutation: Sequence[int] | Tensor | None = None,
    *,
    seed: int = 0,
) -> GeneralizedChannelPermute:
    """Creates a 1×1 convolution, as Pyro's ``generalized_channel_permute``.

    A fresh layer is its permutation alone, where Pyro's is a random rotation.

    Cost, errors, source: see :class:`GeneralizedChannelPermute`.

    Args:
        channels: Number of channels.
        permutation: The fixed permutation of the channels; by default one drawn from ``seed``.
        seed: Seed of the default's generator; :func:`iterated` counts it up.

    Returns:
        A layer of images ``(*batch, channels, height, width)``.

    Examples:
        >>> import torch
        >>> from pyro_nf import transforms as T
        >>> T.generalized_channel_permute(channels=2)(torch.ones(5, 2, 8, 8)).shape
        torch.Size([5, 2, 8, 8])
    """
    return GeneralizedChannelPermute(channels, permutation, seed=seed)


def conditional_generalized_channel_permute(
    context_dim: int,
    channels: int = 3,
    hidden_dims: Sequence[int] | None = None,
    permutation: Sequence[int] | Tensor | None = None,
    *,
    nonlinearity: Activation = "relu",
    seed: int = 0,
) -> GeneralizedChannelPermute:
    """Creates the layer of :func:`generalized_channel_permute` with a context.

    Cost, errors, source: see :class:`GeneralizedChannelPermute`.

    Args:
        context_dim: Size of the context.
        channels: Number C of channels.
        hidden_dims: Widths of the network; ``[10 C, 10 C]`` by default.
        permutation: The fixed permutation of the channels; by default one drawn from ``seed``.
        nonlinearity: The network's activation.
        seed: Seed of the default's generator; :func:`iterated` counts it up.

    Returns:
        A layer of images ``(*batch, channels, height, width)``.

    Examples:
        >>> import torch
        >>> from pyro_nf import transforms as T
        >>> layer = T.conditional_generalized_channel_permute(2, channels=3)
        >>> layer.condition(torch.zeros(5, 2)).forward_shape((3, 8, 8))
        torch.Size([5, 3, 8, 8])
    """
    return GeneralizedChannelPermute(
        channels,
        permutation,
        seed=seed,
        context_dim=context_dim,
        hidden_dims=[10 * channels] * 2 if hidden_dims is None else hidden_dims,
        activation=nonlinearity,
    )
