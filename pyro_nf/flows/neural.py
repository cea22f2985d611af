"""Neural autoregressive flows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from pyro_nf._checks import choice
from pyro_nf.bijections import DeepDenseSigmoidal, DeepSigmoidal, ScalarBijection
from pyro_nf.distributions import Flow
from pyro_nf.flows._assemble import Support, assemble, autoregressive_layers
from pyro_nf.nn._adjacency import Adjacency
from pyro_nf.nn.mlp import Activation, Residual


def naf(
    input_dim: int,
    *,
    transformer: Literal["dsf", "ddsf"] = "dsf",
    units: int = 16,
    fast: Literal["log_prob", "sample"] = "log_prob",
    transforms: int = 3,
    hidden_dims: Sequence[int] = (64, 64),
    order: Sequence[int] | Tensor | None = None,
    adjacency: Adjacency | None = None,
    context_dim: int = 0,
    activation: Activation = "tanh",
    residual: Residual = "none",
    base: nn.Module | None = None,
    support: Support | None = None,
) -> Flow:
    """Creates a neural autoregressive flow: autoregressive layers of mixtures of sigmoids.

    Cost: one pass in the fast direction; in the other D steps, about one pass of the networks'
    arithmetic, with a numerical root of the mixture (some 5 to 12 evaluations) in each.

    Args:
        input_dim: Number D of (unconstrained) dimensions.
        transformer: What moves each dimension: "dsf", one mixture of sigmoids
            (:class:`~pyro_nf.bijections.DeepSigmoidal`), or "ddsf", two dense layers of them
            (:class:`~pyro_nf.bijections.DeepDenseSigmoidal`), whose number of parameters grows
            with the square of ``units``.
        units: Number of sigmoids, in each layer.
        fast: The direction that takes one pass: "log_prob" to fit densities, "sample" for guides.
        transforms: Number of autoregressive layers; their orders alternate.
        hidden_dims: Widths of each network's hidden layers.
        order: The order of the chain: ``order[i]`` is the dimension at position i; natural by
            default. Every other layer reverses it.
        adjacency: Boolean matrix (D, D), a directed acyclic graph: entry (i, j) says whether
            dimension i may depend on dimension j (see :func:`~pyro_nf.flows.maf`). With it the
            flow is one layer, whose bijection is a chain of ``transforms`` mixtures.
        context_dim: Size of the context; 0 for an unconditional flow.
        activation: The networks' activation: a name, a function or a module. That of the default
            saturates, so that the mixtures stay put where rows lie far from all others.
        residual: "skip" adds skip connections between layers of equal width.
        base: Base distribution as a module; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey.

    Raises:
        ValueError: If a size is out of range, an option unknown, or the adjacency has a cycle.

    References:
        Neural autoregressive flows (Huang et al., 2018), arXiv:1804.00779.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> flows.naf(3)().log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
        >>> flow = flows.naf(3, transformer="ddsf", units=4, context_dim=2)
        >>> flow(torch.zeros(5, 2)).sample().shape
        torch.Size([5, 3])
    """
    bijection: ScalarBijection = DeepSigmoidal(units=units)
    if choice("naf", "transformer", transformer, ("dsf", "ddsf")) == "ddsf":
        bijection = DeepDenseSigmoidal(units=units)
    layers = autoregressive_layers(
        "naf",
        bijection,
        input_dim,
        transforms,
        choice("naf", "fast", fast, ("log_prob", "sample")),
        order=order,
        adjacency=adjacency,
        hidden_dims=hidden_dims,
        context_dim=context_dim,
        activation=activation,
        residual=residual,
    )
    return assemble(input_dim, layers, base, support)
