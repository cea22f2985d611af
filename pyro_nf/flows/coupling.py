"""Named flows of coupling layers: NICE and Real NVP."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pyro_nf.bijections import Additive, Affine
from pyro_nf.distributions import Flow
from pyro_nf.flows._assemble import Support, assemble, coupling_layers
from pyro_nf.nn.mlp import Activation, Residual
from pyro_nf.transforms import DiagonalScale
from pyro_nf.transforms._partition import MaskKind


def nice(
    input_dim: int,
    *,
    transforms: int = 6,
    mask: MaskKind = "half",
    hidden_dims: Sequence[int] = (64, 64),
    context_dim: int = 0,
    activation: Activation = "relu",
    residual: Residual = "none",
    base: nn.Module | None = None,
    support: Support | None = None,
) -> Flow:
    """Creates NICE: additive couplings, whose volume a diagonal scale alone changes.

    Cost: one pass in either direction.

    Args:
        input_dim: Number D of (unconstrained) dimensions.
        transforms: Number of coupling layers; kept and moved features alternate.
        mask: Which features a layer keeps (see :func:`~pyro_nf.transforms.coupling_mask`).
        hidden_dims: Widths of each network's hidden layers.
        context_dim: Size of the context; 0 for an unconditional flow.
        activation: The networks' activation: a name, a function or a module.
        residual: "skip" adds skip connections between layers of equal width.
        base: Base distribution as a module; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey.

    Raises:
        ValueError: If a size is out of range or an option unknown.

    References:
        NICE: non-linear independent components estimation (Dinh et al., 2015), arXiv:1410.8516.

    Examples:
        >>> from pyro_nf import flows
        >>> flows.nice(3)().sample((5,)).shape
        torch.Size([5, 3])
    """
    layers = coupling_layers(
        "nice",
        Additive(),
        input_dim,
        transforms,
        mask,
        hidden_dims=hidden_dims,
        context_dim=context_dim,
        activation=activation,
        residual=residual,
    )
    return assemble(input_dim, [DiagonalScale(input_dim), *layers], base, support)


def realnvp(
    input_dim: int,
    *,
    transforms: int = 8,
    mask: MaskKind = "half",
    hidden_dims: Sequence[int] = (64, 64),
    context_dim: int = 0,
    activation: Activation = "tanh",
    residual: Residual = "none",
    base: nn.Module | None = None,
    support: Support | None = None,
) -> Flow:
    """Creates Real NVP: affine couplings with softly bounded scales.

    Cost: one pass in either direction.

    Args:
        input_dim: Number D of (unconstrained) dimensions.
        transforms: Number of coupling layers; kept and moved features alternate.
        mask: Which features a layer keeps (see :func:`~pyro_nf.transforms.coupling_mask`).
        hidden_dims: Widths of each network's hidden layers.
        context_dim: Size of the context; 0 for an unconditional flow.
        activation: The networks' activation: a name, a function or a module. That of the default
            saturates, so that scales stay put where rows lie far from all others.
        residual: "skip" adds skip connections between layers of equal width.
        base: Base distribution as a module; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey.

    Raises:
        ValueError: If a size is out of range or an option unknown.

    References:
        Density estimation using Real NVP (Dinh et al., 2017), arXiv:1605.08803.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> flow = flows.realnvp(3, context_dim=2)
        >>> flow(torch.zeros(5, 2)).sample().shape
        torch.Size([5, 3])
    """
    layers = coupling_layers(
        "realnvp",
        Affine(),
        input_dim,
        transforms,
        mask,
        hidden_dims=hidden_dims,
        context_dim=context_dim,
        activation=activation,
        residual=residual,
    )
    return assemble(input_dim, layers, base, support)
