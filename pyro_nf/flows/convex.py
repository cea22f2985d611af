"""The named flow of convex potentials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from pyro_nf._checks import positive_int
from pyro_nf.distributions import Flow
from pyro_nf.flows._assemble import Support, assemble
from pyro_nf.transforms.actnorm import ActNorm
from pyro_nf.transforms.convex_potential import ConvexPotential, LogDet


def convex_potential(
    input_dim: int,
    *,
    transforms: int = 3,
    hidden_dims: Sequence[int] = (64, 64),
    context_dim: int = 0,
    fast: Literal["log_prob", "sample"] = "log_prob",
    sharpness: float = 8.0,
    log_det: LogDet = "auto",
    base: nn.Module | None = None,
    support: Support | None = None,
) -> Flow:
    """Creates a convex potential flow: gradient maps of strongly convex networks.

    Between two gradient maps stands an activation normalisation, as in the paper. With
    ``transforms=1`` and standardised data the flow is the optimal transport map between data and
    base: the one gradient of a convex function that takes the one to the other.

    Cost: with ``fast="log_prob"``, made for density estimation, ``log_prob`` is one gradient and
    one Hessian a layer; ``sample`` is a convex minimisation a layer, 5 to 15 evaluations for
    D ≤ 64. ``fast="sample"``, made for guides, exchanges the two.

    Args:
        input_dim: Number D of (unconstrained) dimensions.
        transforms: Number of gradient maps.
        hidden_dims: Widths of each potential's hidden layers, at least one.
        context_dim: Size of the context; 0 for an unconditional flow.
        fast: The direction that needs no minimisation, "log_prob" or "sample".
        sharpness: How narrow the kinks of the potentials' units are.
        log_det: "exact", "lanczos", or "auto": exact but while training with D > 64.
        base: Base distribution as a module; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey.

    Raises:
        ValueError: If a size is out of range or an option unknown.

    References:
        Convex potential flows: universal probability distributions with optimal transport and
        convex optimization (Huang et al., 2021), arXiv:2012.05942.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> flow = flows.convex_potential(3, hidden_dims=(16,))
        >>> flow().log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """
    layers: list[ConvexPotential | ActNorm] = []
    for i in range(positive_int("convex_potential", "transforms", transforms)):
        if i > 0:
            layers.append(ActNorm(input_dim))
        layers.append(
            ConvexPotential(
                input_dim,
                fast=fast,
                hidden_dims=hidden_dims,
                context_dim=context_dim,
                sharpness=sharpness,
                log_det=log_det,
            )
        )
    return assemble(input_dim, layers, base, support)
