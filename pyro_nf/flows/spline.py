"""The neural spline flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from pyro_nf._checks import choice
from pyro_nf.bijections import RationalQuadraticSpline
from pyro_nf.distributions import Flow
from pyro_nf.flows._assemble import (
    Support,
    assemble,
    autoregressive_layers,
    coupling_layers,
)
from pyro_nf.nn._adjacency import Adjacency
from pyro_nf.nn.mlp import Activation, Residual
from pyro_nf.transforms._partition import MaskKind


def nsf(
    input_dim: int,
    *,
    wiring: Literal["autoregressive", "coupling"] = "autoregressive",
    transforms: int = 5,
    bins: int = 12,
    bound: float = 4.0,
    mask: MaskKind = "half",
    hidden_dims: Sequence[int] = (64, 64),
    order: Sequence[int] | Tensor | None = None,
    adjacency: Adjacency | None = None,
    context_dim: int = 0,
    activation: Activation = "relu",
    residual: Residual = "none",
    base: nn.Module | None = None,
    support: Support | None = None,
) -> Flow:
    """Creates a neural spline flow: monotonic rational-quadratic splines.

    Cost: autoregressive, one pass for ``log_prob`` and D steps, about one pass of arithmetic, for
    ``sample``; coupling, one pass in either direction.

    Warning:
        The splines are the identity outside of [-bound, bound]. ``fit_density`` standardises the
        data on its way in; a flow used without it sees raw values.

    Args:
        input_dim: Number D of (unconstrained) dimensions.
        wiring: "autoregressive" (sharper densities) or "coupling" (both directions fast).
        transforms: Number of layers; their orders, or kept and moved features, alternate.
        bins: Number of bins of each spline.
        bound: The splines act on [-bound, bound], in standard deviations of the data.
        mask: Which features a coupling keeps (see :func:`~pyro_nf.transforms.coupling_mask`).
        hidden_dims: Widths of each network's hidden layers.
        order: The order of the chain: ``order[i]`` is the dimension at position i; natural by
            default. Every other layer reverses it.
        adjacency: Boolean matrix (D, D), a directed acyclic graph: entry (i, j) says whether
            dimension i may depend on dimension j; the diagonal is ignored. With it the flow is
            one autoregressive layer, whose splines are chains of ``transforms``, and a Bayesian
            network: the Jacobian data -> base is zero wherever the matrix is.
        context_dim: Size of the context; 0 for an unconditional flow.
        activation: The networks' activation: a name, a function or a module.
        residual: "skip" adds skip connections between layers of equal width.
        base: Base distribution as a module; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey.

    Raises:
        ValueError: If a size is out of range, an option unknown, the adjacency has a cycle (which
            is printed) or disagrees with ``order``, or couplings are given either.

    References:
        Neural spline flows (Durkan et al., 2019), arXiv:1906.04032.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> flows.nsf(2)().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
        >>> flows.nsf(4, wiring="coupling", context_dim=3)(torch.zeros(7, 3)).sample().shape
        torch.Size([7, 4])
    """
    choice("nsf", "mask", mask, ("half", "alternating", "random"))
    spline = RationalQuadraticSpline(bins=bins, bound=bound)
    network: dict[str, Any] = {
        "hidden_dims": hidden_dims,
        "context_dim": context_dim,
        "activation": activation,
        "residual": residual,
    }
    if choice("nsf", "wiring", wiring, ("autoregressive", "coupling")) == "coupling":
        if order is not None or adjacency is not None:
            raise ValueError(
                "nsf(wiring='coupling') got an order or an adjacency, which couplings lack. "
                "Pass wiring='autoregressive', or leave it away."
            )
        layers = coupling_layers("nsf", spline, input_dim, transforms, mask, **network)
    else:
        layers = autoregressive_layers(
            "nsf",
            spline,
            input_dim,
            transforms,
            "log_prob",
            order=order,
            adjacency=adjacency,
            **network,
        )
    return assemble(input_dim, layers, base, support)
