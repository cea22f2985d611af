"""What the named flows share: their chains of layers, the base, the data's scales, the support."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.distributions import constraints

from pyro_nf._checks import choice, positive_int
from pyro_nf.bijections import Additive, Affine, Chain, ScalarBijection
from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.nn._adjacency import Adjacency
from pyro_nf.nn.masked import permutation
from pyro_nf.transforms import ActNorm, Autoregressive, Coupling, FlowTransform, coupling_mask
from pyro_nf.transforms._partition import MaskKind

Support = constraints.Constraint | Sequence[constraints.Constraint]


def assemble(
    input_dim: int,
    layers: Sequence[FlowTransform],
    base: nn.Module | None,
    support: Support | None,
) -> Flow:
    """Creates a flow of layers, base -> data, that takes data of any location and scale.

    The last layer before the support is an activation normalisation, which ``initialize`` sets
    from data, so that the layers before it see standardised values.
    """
    base = DiagonalNormal(input_dim) if base is None else base
    return Flow(base, [*layers, ActNorm(input_dim)], support=support)


def coupling_layers(
    owner: str,
    bijection: ScalarBijection,
    input_dim: int,
    transforms: int,
    mask: MaskKind,
    **network: Any,
) -> list[FlowTransform]:
    """Creates couplings in pairs that keep and move complementary features."""
    positive_int(owner, "input_dim", input_dim)
    choice(owner, "mask", mask, get_args(MaskKind))
    return [
        Coupling(
            bijection,
            input_dim,
            mask=coupling_mask(input_dim, mask, parity=i % 2, seed=i // 2),
            **network,
        )
        for i in range(positive_int(owner, "transforms", transforms))
    ]


def autoregressive_layers(
    owner: str,
    bijection: ScalarBijection,
    input_dim: int,
    transforms: int,
    fast: Literal["log_prob", "sample"],
    *,
    order: Sequence[int] | Tensor | None = None,
    adjacency: Adjacency | None = None,
    **network: Any,
) -> list[FlowTransform]:
    """Creates autoregressive layers whose orders alternate between ``order`` and its reverse.

    With an adjacency it is one layer, whose bijection is a chain of ``transforms`` copies: in a
    stack a dimension would depend on its grandparents too.
    """
    size = positive_int(owner, "input_dim", input_dim)
    count = positive_int(owner, "transforms", transforms)
    if adjacency is not None:
        # A chain of affine maps is affine.
        f = bijection if isinstance(bijection, (Additive, Affine)) else Chain([bijection] * count)
        return [
            Autoregressive(f, input_dim, fast=fast, order=order, adjacency=adjacency, **network)
        ]
    chain = permutation(order, size, owner=owner)
    orders = chain, chain[::-1]
    return [
        Autoregressive(bijection, input_dim, fast=fast, order=orders[i % 2], **network)
        for i in range(count)
    ]
