"""Named flows of polynomials: sum-of-squares and Bernstein."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pyro_nf.bijections import Bernstein, SumOfSquares
from pyro_nf.distributions import Flow
from pyro_nf.flows._assemble import Support, assemble, autoregressive_layers
from pyro_nf.nn._adjacency import Adjacency
from pyro_nf.nn.mlp import Activation, Residual


def sos(
    input_dim: int,
    *,
    transforms: int = 3,
    degree: int = 2,
    count: int = 2,
    hidden_dims: Sequence[int] = (64, 64),
    order: Sequence[int] | Tensor | None = None,
    adjacency: Adjacency | None = None,
    context_dim: int = 0,
    activation: Activation = "tanh",
    residual: Residual = "none",
    base: nn.Module | None = None,
    support: Support | None = None,
) -> Flow:
    """Creates a sum-of-squares polynomial flow: autoregressive layers of increasing polynomials.

    Cost: one pass for ``log_prob``; for ``sample`` D steps, about one pass of arithmetic, with a
    numerical root in each.

    Warning:
        Each layer is a polynomial of degree 2R + 1 in the data: the tails of the density are far
        lighter than a normal's, and in float32 a row tens of standard deviations away overflows
        and scores NaN. For heavy tails choose another flow.

    Args:
        input_dim: Number D of (unconstrained) dimensions.
        transforms: Number of autoregressive layers; their orders alternate.
        degree: Degree R of the polynomials that are squared.
        count: Number of squares in each sum.
        hidden_dims: Widths of each network's hidden layers.
        order: The order of the chain: ``order[i]`` is the dimension at position i; natural by
            default. Every other layer reverses it.
        adjacency: Boolean matrix (D, D), a directed acyclic graph: entry (i, j) says whether
            dimension i may depend on dimension j (see :func:`~pyro_nf.flows.nsf`). With it the
            flow is one layer, whose bijection is a chain of ``transforms``.
        context_dim: Size of the context; 0 for an unconditional flow.
        activation: The networks' activation: a name, a function or a module. That of the default
            saturates, so that the coefficients stay put where rows lie far from all others.
        residual: "skip" adds skip connections between layers of equal width.
        base: Base distribution as a module; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey.

    Raises:
        ValueError: If a size is out of range, an option unknown, or the adjacency has a cycle.

    References:
        Sum-of-squares polynomial flow (Jaini et al., 2019), arXiv:1905.02325.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> flows.sos(3)().log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """
    layers = autoregressive_layers(
        "sos",
        SumOfSquares(degree=degree, count=count),
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


def bernstein(
    input_dim: int,
    *,
    transforms: int = 5,
    degree: int = 16,
    bound: float = 5.0,
    hidden_dims: Sequence[int] = (64, 64),
    order: Sequence[int] | Tensor | None = None,
    adjacency: Adjacency | None = None,
    context_dim: int = 0,
    activation: Activation = "relu",
    residual: Residual = "none",
    base: nn.Module | None = None,
    support: Support | None = None,
) -> Flow:
    """Creates a Bernstein flow: autoregressive layers of monotone Bernstein polynomials.

    Outside of [-bound, bound] the polynomials go on as straight lines, so every value is mapped
    and tails stay those of the base.

    Cost: one pass for ``log_prob``; for ``sample`` D steps, about one pass of arithmetic, with a
    numerical root in each.

    Args:
        input_dim: Number D of (unconstrained) dimensions.
        transforms: Number of autoregressive layers; their orders alternate.
        degree: Degree of the polynomials.
        bound: They act on [-bound, bound], in standard deviations of the data.
        hidden_dims: Widths of each network's hidden layers.
        order: The order of the chain: ``order[i]`` is the dimension at position i; natural by
            default. Every other layer reverses it.
        adjacency: Boolean matrix (D, D), a directed acyclic graph: entry (i, j) says whether
            dimension i may depend on dimension j (see :func:`~pyro_nf.flows.nsf`). With it the
            flow is one layer, whose bijection is a chain of ``transforms``.
        context_dim: Size of the context; 0 for an unconditional flow.
        activation: The networks' activation: a name, a function or a module.
        residual: "skip" adds skip connections between layers of equal width.
        base: Base distribution as a module; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey.

    Raises:
        ValueError: If a size is out of range, an option unknown, or the adjacency has a cycle.

    References:
        Deep transformation models: Tackling complex regression problems with neural network
        based transformation models (Sick et al., 2020), arXiv:2004.00464.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> flows.bernstein(3, context_dim=2)(torch.zeros(5, 2)).sample().shape
        torch.Size([5, 3])
    """
    layers = autoregressive_layers(
        "bernstein",
        Bernstein(degree=degree, bound=bound),
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
