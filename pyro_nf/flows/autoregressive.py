"""Named flows of affine autoregressive layers: MAF and IAF."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pyro_nf.bijections import Affine
from pyro_nf.distributions import Flow
from pyro_nf.flows._assemble import Support, assemble, autoregressive_layers
from pyro_nf.nn._adjacency import Adjacency
from pyro_nf.nn.mlp import Activation, Residual


def maf(
    input_dim: int,
    *,
    transforms: int = 5,
    hidden_dims: Sequence[int] = (64, 64),
    order: Sequence[int] | Tensor | None = None,
    adjacency: Adjacency | None = None,
    context_dim: int = 0,
    activation: Activation = "relu",
    residual: Residual = "none",
    base: nn.Module | None = None,
    support: Support | None = None,
) -> Flow:
    """Creates a masked autoregressive flow: affine layers that read the data.

    Cost: one pass for ``log_prob``; D steps, about one pass of arithmetic, for ``sample``.

    Args:
        input_dim: Number D of (unconstrained) dimensions.
        transforms: Number of autoregressive layers; their orders alternate.
        hidden_dims: Widths of each network's hidden layers.
        order: The order of the chain: ``order[i]`` is the dimension at position i; natural by
            default. Every other layer reverses it.
        adjacency: Boolean matrix (D, D), a directed acyclic graph: entry (i, j) says whether
            dimension i may depend on dimension j; the diagonal is ignored. With it the flow is
            one layer, whatever ``transforms``, and a Bayesian network: the Jacobian data -> base
            is zero wherever the matrix is, and each :math:`p(y_i | y_{A(i)})` is a normal.
        context_dim: Size of the context; 0 for an unconditional flow.
        activation: The networks' activation: a name, a function or a module.
        residual: "skip" adds skip connections between layers of equal width.
        base: Base distribution as a module; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey.

    Raises:
        ValueError: If a size is out of range, an option unknown, or the adjacency has a cycle
            (which is printed) or disagrees with ``order``.

    References:
        Masked autoregressive flow for density estimation (Papamakarios et al., 2017),
        arXiv:1705.07057.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> flows.maf(3)().log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """
    layers = autoregressive_layers(
        "maf",
        Affine(),
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


def iaf(
    input_dim: int,
    *,
    transforms: int = 5,
    hidden_dims: Sequence[int] = (64, 64),
    order: Sequence[int] | Tensor | None = None,
    adjacency: Adjacency | None = None,
    context_dim: int = 0,
    activation: Activation = "relu",
    residual: Residual = "none",
    base: nn.Module | None = None,
    support: Support | None = None,
) -> Flow:
    """Creates an inverse autoregressive flow: affine layers that read the base draw.

    Made for guides and VAE posteriors, which score their own draws. Cost: one pass for ``sample``
    and for ``log_prob`` of one's own draw; D steps, about one pass of arithmetic, for ``log_prob``
    of other data.

    Args:
        input_dim: Number D of (unconstrained) dimensions.
        transforms: Number of autoregressive layers; their orders alternate.
        hidden_dims: Widths of each network's hidden layers.
        order: The order of the chain: ``order[i]`` is the dimension at position i; natural by
            default. Every other layer reverses it.
        adjacency: Boolean matrix (D, D), a directed acyclic graph: entry (i, j) says whether
            dimension i may depend on dimension j; the diagonal is ignored. With it the flow is
            one layer, whatever ``transforms``, and the Jacobian base -> data is zero wherever the
            matrix is, the diagonal apart.
        context_dim: Size of the context; 0 for an unconditional flow.
        activation: The networks' activation: a name, a function or a module.
        residual: "skip" adds skip connections between layers of equal width.
        base: Base distribution as a module; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey.

    Raises:
        ValueError: If a size is out of range, an option unknown, or the adjacency has a cycle
            (which is printed) or disagrees with ``order``.

    References:
        Improving variational inference with inverse autoregressive flow (Kingma et al., 2016),
        arXiv:1606.04934.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> posterior = flows.iaf(3, context_dim=2)(torch.zeros(5, 2))
        >>> z = posterior.rsample()
        >>> z.shape, posterior.log_prob(z).shape
        (torch.Size([5, 3]), torch.Size([5]))
    """
    layers = autoregressive_layers(
        "iaf",
        Affine(),
        input_dim,
        transforms,
        "sample",
        order=order,
        adjacency=adjacency,
        hidden_dims=hidden_dims,
        context_dim=context_dim,
        activation=activation,
        residual=residual,
    )
    return assemble(input_dim, layers, base, support)
