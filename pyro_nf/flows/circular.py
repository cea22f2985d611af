"""The neural spline flow on angles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from pyro_nf._checks import choice
from pyro_nf.bijections import CircularSpline
from pyro_nf.distributions import Flow, UniformBox
from pyro_nf.flows._assemble import autoregressive_layers, coupling_layers
from pyro_nf.nn._adjacency import Adjacency
from pyro_nf.nn.mlp import Activation, Residual
from pyro_nf.transforms._partition import MaskKind


def circular_nsf(
    input_dim: int,
    *,
    wiring: Literal["autoregressive", "coupling"] = "autoregressive",
    transforms: int = 3,
    bins: int = 12,
    mask: MaskKind = "half",
    hidden_dims: Sequence[int] = (64, 64),
    order: Sequence[int] | Tensor | None = None,
    adjacency: Adjacency | None = None,
    context_dim: int = 0,
    activation: Activation = "relu",
    residual: Residual = "none",
    base: nn.Module | None = None,
) -> Flow:
    r"""Creates a neural spline flow on angles, the torus :math:`[-\pi, \pi)^D`.

    Circular splines move the angles, and the networks read their cosines and sines, so the density
    is periodic and continuous across ±π. Values are in radians.

    Cost: autoregressive, one pass for ``log_prob`` and D steps, about one pass of arithmetic, for
    ``sample``; coupling, one pass in either direction.

    Warning:
        Data outside of [-π, π] are refused (with validation off they count as the same angle
        inside). Wrap them: ``torch.remainder(y + math.pi, 2 * math.pi) - math.pi``.

    Args:
        input_dim: Number D of angles.
        wiring: "autoregressive" (sharper densities) or "coupling" (both directions fast).
        transforms: Number of layers; their orders, or kept and moved angles, alternate.
        bins: Number of bins of each spline.
        mask: Which angles a coupling keeps (see :func:`~pyro_nf.transforms.coupling_mask`).
        hidden_dims: Widths of each network's hidden layers.
        order: The order of the chain: ``order[i]`` is the angle at position i; natural by default.
            Every other layer reverses it.
        adjacency: Boolean matrix (D, D), a directed acyclic graph: entry (i, j) says whether
            dimension i may depend on dimension j (see :func:`~pyro_nf.flows.nsf`). With it the
            flow is one layer, whose bijection is a chain of ``transforms``.
        context_dim: Size of the context; 0 for an unconditional flow. Of angles in it, pass cosine
            and sine.
        activation: The networks' activation: a name, a function or a module.
        residual: "skip" adds skip connections between layers of equal width.
        base: Base distribution on the torus as a module; uniform by default.

    Raises:
        ValueError: If a size is out of range, an option unknown, or the adjacency has a cycle.

    References:
        Normalizing flows on tori and spheres (Rezende et al., 2020), arXiv:2002.02428.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> flow = flows.circular_nsf(2)
        >>> flow().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
        >>> bool((flow().sample((100,)).abs() <= torch.pi).all())
        True
    """
    choice("circular_nsf", "mask", mask, ("half", "alternating", "random"))
    spline = CircularSpline(bins=bins)
    network: dict[str, Any] = {
        "hidden_dims": hidden_dims,
        "context_dim": context_dim,
        "activation": activation,
        "residual": residual,
        "features": "periodic",
    }
    name = "circular_nsf"
    if choice(name, "wiring", wiring, ("autoregressive", "coupling")) == "coupling":
        if order is not None or adjacency is not None:
            raise ValueError(
                "circular_nsf(wiring='coupling') got an order or an adjacency, which couplings "
                "lack. Pass wiring='autoregressive', or leave it away."
            )
        layers = coupling_layers(name, spline, input_dim, transforms, mask, **network)
    else:
        layers = autoregressive_layers(
            name,
            spline,
            input_dim,
            transforms,
            "log_prob",
            order=order,
            adjacency=adjacency,
            **network,
        )
    base = UniformBox(input_dim, -math.pi, math.pi) if base is None else base
    return Flow(base, layers)
