"""The block neural autoregressive flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from pyro_nf._checks import positive_int
from pyro_nf.distributions import Flow
from pyro_nf.flows._assemble import Support, assemble
from pyro_nf.nn._block_values import BlockResidual
from pyro_nf.nn._monotone import MonotoneName
from pyro_nf.nn.masked import permutation
from pyro_nf.transforms.block_autoregressive import BlockAutoregressive


def bnaf(
    input_dim: int,
    *,
    transforms: int = 3,
    hidden_factors: Sequence[int] = (8, 8),
    fast: Literal["log_prob", "sample"] = "log_prob",
    order: Sequence[int] | Tensor | None = None,
    context_dim: int = 0,
    activation: MonotoneName = "tanh",
    residual: BlockResidual = "gated",
    base: nn.Module | None = None,
    support: Support | None = None,
) -> Flow:
    """Creates a block neural autoregressive flow: networks that are the maps themselves.

    Cost, with ``fast="log_prob"``: one pass for ``log_prob``; D scalar roots a layer, some 25
    passes of time, for ``sample``. The other way round with ``fast="sample"``.

    Warning:
        ``residual=None`` bounds the range of each layer (but with "LeakyReLU"): the density does
        not integrate to 1, and draws outside of the range raise. Leave it "gated".

    Args:
        input_dim: Number D of (unconstrained) dimensions.
        transforms: Number of layers; ``order`` and its reverse alternate.
        hidden_factors: Units that each hidden layer has for each dimension.
        fast: The direction that takes one pass: "log_prob" for density estimation, "sample" for
            guides, which score their own draws.
        order: The first layer's order: ``order[i]`` is the dimension at position i. Natural by
            default.
        context_dim: Size of the context; 0 for an unconditional flow.
        activation: "ELU", "LeakyReLU", "sigmoid" or "tanh".
        residual: "gated", "normal" or None (see
            :class:`~pyro_nf.transforms.BlockAutoregressive`).
        base: Base distribution as a module; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey.

    Raises:
        TypeError, ValueError: If a size is out of range or an option unknown.

    References:
        Block neural autoregressive flow (De Cao et al., 2019), arXiv:1904.04676.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> flow = flows.bnaf(3, context_dim=2)
        >>> flow(torch.zeros(5, 2)).log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """
    chain = permutation(order, positive_int("bnaf", "input_dim", input_dim), owner="bnaf")
    layers = [
        BlockAutoregressive(
            input_dim,
            hidden_factors,
            activation,
            residual,
            fast=fast,
            order=(chain, chain[::-1])[i % 2],
            context_dim=context_dim,
        )
        for i in range(positive_int("bnaf", "transforms", transforms))
    ]
    return assemble(input_dim, layers, base, support)
