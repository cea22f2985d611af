"""Block neural autoregressive flow under Pyro's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from pyro_nf.transforms._pyro.autoregressive import chain_order
from pyro_nf.transforms.block_autoregressive import BlockAutoregressive


def block_autoregressive(
    input_dim: int,
    hidden_factors: Sequence[int] = (8, 8),
    activation: Literal["ELU", "LeakyReLU", "sigmoid", "tanh"] = "tanh",
    residual: Literal["normal", "gated"] | None = "gated",
    *,
    permutation: Sequence[int] | Tensor | None = None,
    parity: int = 0,
) -> BlockAutoregressive:
    """Creates a :class:`BlockAutoregressive` layer, as Pyro's ``block_autoregressive``.

    It reads the base draw. The default of ``residual`` is "gated", which is onto the line; Pyro's
    is None, with which the density of anything but the layer's own draws is meaningless.

    Cost, errors, source: see :class:`BlockAutoregressive`.

    Args:
        input_dim: Number of dimensions.
        hidden_factors: Units that each hidden layer has for each dimension.
        activation: "ELU", "LeakyReLU", "sigmoid" or "tanh".
        residual: "gated", "normal" or None.
        permutation: The order of the dimensions; natural by default.
        parity: 1 reverses that order; :func:`iterated` alternates it.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.block_autoregressive(3, hidden_factors=[4]).input_dim
        3
    """
    return conditional_block_autoregressive(
        input_dim, 0, hidden_factors, activation, residual, permutation=permutation, parity=parity
    )


def conditional_block_autoregressive(
    input_dim: int,
    context_dim: int,
    hidden_factors: Sequence[int] = (8, 8),
    activation: Literal["ELU", "LeakyReLU", "sigmoid", "tanh"] = "tanh",
    residual: Literal["normal", "gated"] | None = "gated",
    *,
    permutation: Sequence[int] | Tensor | None = None,
    parity: int = 0,
) -> BlockAutoregressive:
    """Creates the layer of :func:`block_autoregressive` with a context.

    Cost, errors, source: see :class:`BlockAutoregressive`.

    Args:
        input_dim: Number of dimensions.
        context_dim: Size of the context.
        hidden_factors: Units that each hidden layer has for each dimension.
        activation: "ELU", "LeakyReLU", "sigmoid" or "tanh".
        residual: "gated", "normal" or None.
        permutation: The order of the dimensions; natural by default.
        parity: 1 reverses that order; :func:`iterated` alternates it.

    Returns:
        A layer of ``(*batch, input_dim)``.

    Examples:
        >>> from pyro_nf import transforms as T
        >>> T.conditional_block_autoregressive(3, 2, hidden_factors=[4]).context_dim
        2
    """
    return BlockAutoregressive(
        input_dim,
        hidden_factors,
        activation,
        residual,
        fast="sample",
        context_dim=context_dim,
        order=chain_order("block_autoregressive", input_dim, permutation, parity),
    )
