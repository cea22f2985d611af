"""Cases of couplings and flows of images."""

from __future__ import annotations

from functools import partial
from typing import Any

from case import Case
from cases_continuous import SOLVED

from pyro_nf import bijections as B  # noqa: N812
from pyro_nf import flows
from pyro_nf import nn as N  # noqa: N812
from pyro_nf import transforms as T  # noqa: N812


def small(activation: str = "silu", **options: Any) -> partial[N.ConvNet]:
    """A small network without kinks; with "tanh", and no context, one node with its coupling."""
    return partial(N.ConvNet, hidden_channels=(4,), activation=activation, **options)


_COUPLINGS = [
    Case(
        "coupling2d-channels",
        lambda: T.Coupling2d(B.Affine(), 4, network=small("tanh")),
        ("Coupling2d",),
        event=(4, 4, 4),
    ),
    Case(
        "coupling2d-checkerboard",
        lambda: T.Coupling2d(B.Affine(), 2, mask="checkerboard", network=small("tanh")),
        ("Coupling2d",),
        event=(2, 4, 4),
    ),
    Case(
        "coupling2d-checkerboard-odd-context",
        lambda: T.Coupling2d(
            B.Affine(), 1, mask="checkerboard", parity=1, network=small(context_shape=(1, 2, 2))
        ),
        ("Coupling2d",),
        context_dim=4,
        event=(1, 3, 3),
    ),
    Case(
        "coupling2d-spline-context",
        lambda: T.Coupling2d(
            B.RationalQuadraticSpline(bins=3), 3, parity=1, network=small(context_dim=3)
        ),
        ("Coupling2d",),
        context_dim=3,
        event=(3, 2, 2),
    ),
    Case(
        "coupling2d-mixture",
        lambda: T.Coupling2d(B.LogisticMixture(components=2), 2, network=small()).inv,
        ("Coupling2d",),
        event=(2, 2, 2),
        fresh_is_identity=False,
        compiles="inverse",
    ),
]


def _two_levels() -> T.MultiLevel:
    network = small(context_dim=2)
    levels = [
        [T.Coupling2d(B.Affine(), channels, network=network), T.Unsqueeze()] for channels in (4, 8)
    ]
    return T.MultiLevel((1, 4, 4), levels, prior=network)


_LEVELS = [
    Case("multi-level-context", _two_levels, ("MultiLevel",), 16, 2, fresh_is_identity=False),
    Case(
        "multi-level-one",
        lambda: T.MultiLevel((1, 2, 2), [T.Coupling2d(B.Affine(), 1, mask="checkerboard")]),
        ("MultiLevel",),
        4,
        fresh_is_identity=False,  # another shape
    ),
]

_SMALL = {"transforms": 1, "hidden_dims": (4,)}
# A named flow maps flat vectors to images; the noise of a dequantizer goes into (0, 1).
_FLOWS = [
    Case(
        "flow-glow-image-context",
        lambda: flows.glow((1, 4, 4), context_dim=3, activation="silu", **_SMALL).transform,
        ("glow",),
        16,
        3,
        fresh_is_identity=False,
        largest_scale=1.0,  # a stack of couplings stretches more than float64 can undo
    ),
    Case(
        "flow-realnvp-image",
        lambda: flows.realnvp((2, 2, 2), activation="silu", **_SMALL).transform,
        ("realnvp",),
        8,
        fresh_is_identity=False,
        largest_scale=1.0,
    ),
    Case(
        "flow-flow_plus_plus-image",
        lambda: (
            flows.flow_plus_plus((1, 2, 2), components=2, transforms=1, hidden_dims=(4,)).transform
        ),
        ("flow_plus_plus",),
        4,
        fresh_is_identity=False,
        largest_scale=1.0,
        compiles="inverse",
    ),
    Case(
        "flow-cnf-image",
        lambda: flows.cnf((1, 2, 2), hidden_dims=(4,), norm="max", rtol=1e-6, atol=1e-6).transform,
        ("cnf",),
        4,
        **{**SOLVED, "fresh_is_identity": False},
    ),
    Case(
        "flow-residual-image",
        lambda: flows.residual_flow((1, 2, 2), activation="tanh", **_SMALL).transform,
        ("residual_flow",),
        4,
        fresh_is_identity=False,
        compiles="inverse",
    ),
    Case(
        "flow-dequantizer-context",
        lambda: flows.dequantizer((1, 2, 2), bijection=B.Affine(), **_SMALL).transform,
        ("dequantizer",),
        4,
        4,
        fresh_is_identity=False,
        largest_scale=1.0,
        far=False,
    ),
]

CASES = [*_COUPLINGS, *_LEVELS, *_FLOWS]
