"""Named flows of vector bijections: planar, radial and Sylvester."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import nn

from pyro_nf._checks import choice, positive_int
from pyro_nf.bijections import Planar, Radial, Sylvester, VectorBijection
from pyro_nf.bijections.sylvester import Form
from pyro_nf.distributions import Flow
from pyro_nf.flows._assemble import Support, assemble
from pyro_nf.nn.mlp import Activation, Residual
from pyro_nf.transforms import FlowTransform, Joint

Fast = Literal["log_prob", "sample"]


def planar(
    input_dim: int,
    *,
    transforms: int = 32,
    fast: Fast = "log_prob",
    hidden_dims: Sequence[int] = (64, 64),
    context_dim: int = 0,
    activation: Activation = "relu",
    residual: Residual = "none",
    base: nn.Module | None = None,
    support: Support | None = None,
) -> Flow:
    """Creates a planar flow: layers of one hidden unit each.

    Cost: one product with a vector for each layer in the fast direction; in the other also one
    numerical root a row. A layer does little: expect to need many, and other flows in more than a
    few dimensions.

    Args:
        input_dim: Number D of (unconstrained) dimensions.
        transforms: Number of planar layers.
        fast: The closed-form direction: "log_prob" to fit densities, "sample" for guides.
        hidden_dims: Widths of the networks that read the context.
        context_dim: Size of the context; 0 for learned constants.
        activation: The networks' activation: a name, a function or a module.
        residual: "skip" adds skip connections between layers of equal width.
        base: Base distribution as a module; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey.

    Raises:
        ValueError: If a size is out of range or an option unknown.

    References:
        Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015), arXiv:1505.05770.

    Examples:
        >>> from pyro_nf import flows
        >>> flows.planar(3, transforms=4)().sample((5,)).shape
        torch.Size([5, 3])
    """
    layers = _layers(
        "planar",
        lambda _: Planar(),
        input_dim,
        transforms,
        fast,
        hidden_dims=hidden_dims,
        context_dim=context_dim,
        activation=activation,
        residual=residual,
    )
    return assemble(input_dim, layers, base, support)


def radial(
    input_dim: int,
    *,
    transforms: int = 48,
    fast: Fast = "log_prob",
    hidden_dims: Sequence[int] = (64, 64),
    context_dim: int = 0,
    activation: Activation = "relu",
    residual: Residual = "none",
    base: nn.Module | None = None,
    support: Support | None = None,
) -> Flow:
    """Creates a radial flow: layers that contract or expand around one centre each.

    Cost: O(D) a layer in either direction, both closed form. A layer does little: expect to need
    many, and other flows in more than a few dimensions. The parameters have far to go: train with
    larger steps than other flows, ``fit_density(..., learning_rate=1e-2)``.

    Args:
        input_dim: Number D of (unconstrained) dimensions.
        transforms: Number of radial layers.
        fast: Which direction takes the layers as they are written, the other their inverses:
            "sample" (as in the paper) or "log_prob". A choice between two families; neither is
            slow.
        hidden_dims: Widths of the networks that read the context.
        context_dim: Size of the context; 0 for learned constants.
        activation: The networks' activation: a name, a function or a module.
        residual: "skip" adds skip connections between layers of equal width.
        base: Base distribution as a module; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey.

    Raises:
        ValueError: If a size is out of range or an option unknown.

    References:
        Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015), arXiv:1505.05770.

    Examples:
        >>> from pyro_nf import flows
        >>> flows.radial(3, transforms=4)().sample((5,)).shape
        torch.Size([5, 3])
    """
    layers = _layers(
        "radial",
        lambda _: Radial(),
        input_dim,
        transforms,
        fast,
        hidden_dims=hidden_dims,
        context_dim=context_dim,
        activation=activation,
        residual=residual,
    )
    return assemble(input_dim, layers, base, support)


def sylvester(
    input_dim: int,
    *,
    transforms: int = 16,
    form: Form = "orthogonal",
    units: int | None = None,
    reflections: int = 4,
    fast: Fast = "log_prob",
    hidden_dims: Sequence[int] = (64, 64),
    context_dim: int = 0,
    activation: Activation = "relu",
    residual: Residual = "none",
    base: nn.Module | None = None,
    support: Support | None = None,
) -> Flow:
    """Creates a Sylvester flow: layers of M hidden units each.

    Cost: O(DM) a row and layer in the fast direction; in the other also M numerical roots, one
    after the other.

    Args:
        input_dim: Number D of (unconstrained) dimensions.
        transforms: Number of Sylvester layers.
        form: How a layer's orthonormal columns are made: "orthogonal", "householder" or
            "triangular" (fixed; natural and reversed order alternate).
        units: Number M of hidden units; None takes D.
        reflections: Number of reflections of the form "householder".
        fast: The closed-form direction: "log_prob" to fit densities, "sample" for guides.
        hidden_dims: Widths of the networks that read the context.
        context_dim: Size of the context; 0 for learned constants.
        activation: The networks' activation: a name, a function or a module.
        residual: "skip" adds skip connections between layers of equal width.
        base: Base distribution as a module; standard normal by default.
        support: A Pyro constraint, or one for each dimension, that the data obey.

    Raises:
        ValueError: If a size is out of range or an option unknown.

    References:
        Sylvester Normalizing Flows for Variational Inference (van den Berg et al., 2018),
        arXiv:1803.05649.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> flow = flows.sylvester(3, transforms=2, units=2, context_dim=2)
        >>> flow(torch.zeros(5, 2)).sample().shape
        torch.Size([5, 3])
    """
    orders: tuple[Literal["natural", "reversed"], ...] = ("natural", "reversed")
    layers = _layers(
        "sylvester",
        lambda i: Sylvester(form, units, reflections, orders[i % 2]),
        input_dim,
        transforms,
        fast,
        hidden_dims=hidden_dims,
        context_dim=context_dim,
        activation=activation,
        residual=residual,
    )
    return assemble(input_dim, layers, base, support)


def _layers(
    owner: str,
    bijection: Callable[[int], VectorBijection],
    input_dim: int,
    transforms: int,
    fast: Fast,
    **network: Any,
) -> list[FlowTransform]:
    """Creates layers of the bijections 0 … transforms-1, inverted if ``log_prob`` is fast."""
    choice(owner, "fast", fast, ("log_prob", "sample"))
    positive_int(owner, "transforms", transforms)
    layers = [Joint(bijection(i), input_dim, **network) for i in range(transforms)]
    return [layer.inv if fast == "log_prob" else layer for layer in layers]
