"""The named flow of integrals of positive networks: UMNN."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pyro_nf.bijections import UnconstrainedMonotonic
from pyro_nf.distributions import Flow
from pyro_nf.flows._assemble import Support, assemble, autoregressive_layers
from pyro_nf.nn._adjacency import Adjacency
from pyro_nf.nn.mlp import Activation, Residual


def umnn(
    input_dim: int,
    *,
    transforms: int = 3,
    units: int = 6,
    nodes: int = 40,
    bound: float = 3.0,
    hidden_dims: Sequence[int] = (64, 64),
    order: Sequence[int] | Tensor | None = None,
    adjacency: Adjacency | None = None,
    context_dim: int = 0,
    activation: Activation = "relu",
    residual: Residual = "none",
    base: nn.Module | None = None,
    support: Support | None = None,
) -> Flow:
    """Creates an autoregressive flow of unconstrained monotonic networks (UMNN-MAF).

    Each dimension is moved by the integral of a positive network, whose weights the masked network
    makes from the dimensions before (see :class:`~pyro_nf.bijections.UnconstrainedMonotonic`).

    Cost: one pass and ``(nodes + 1) * units`` hyperbolic tangents for each number for
    ``log_prob``; D steps, each with a numerical root, for ``sample``.

    Args:
        input_dim: Number D of (unconstrained) dimensions.
        transforms: Number of autoregressive layers; their orders alternate.
        units: Number of hidden units of each integrand.
        nodes: Number of nodes of the quadrature.
        bound: The integrands act on [-bound, bound], in standard deviations of the data.
        hidden_dims: Widths of each masked network's hidden layers.
        order: The order of the chain: ``order[i]`` is the dimension at position i; natural by
            default. Every other layer reverses it.
        adjacency: Boolean matrix (D, D), a directed acyclic graph: entry (i, j) says whether
            dimension i may depend on dimension j; the diagonal is ignored. With it the flow is
            one autoregressive layer, whose maps are chains of ``transforms``, and a Bayesian
            network: the Jacobian data -> base is zero wherever the matrix is.
        context_dim: Size of the context; 0 for an unconditional flow.
        activation: The masked networks' activation: a name, a function or a module.
        residual: "skip" adds skip connections between layers of equal width.
        base: Base distribution as a module; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey.

    Raises:
        ValueError: If a size is out of range, an option unknown, or the adjacency has a cycle
            (which is printed) or disagrees with ``order``.

    References:
        Unconstrained monotonic neural networks (Wehenkel & Louppe, 2019), arXiv:1908.05164.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> flows.umnn(2)().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """
    layers = autoregressive_layers(
        "umnn",
        UnconstrainedMonotonic(units=units, nodes=nodes, bound=bound),
        input_dim,
        transforms,
        "log_prob",
        order=order,
        adjacency=adjacency,
        hidden_dims=hidden_dims,
        context_dim=context_dim,
        activation=activation,
        residual=residual,
    )
    return assemble(input_dim, layers, base, support)
