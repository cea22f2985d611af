"""Cases of the block autoregressive layer and its flow."""

from __future__ import annotations

from case import Case

from pyro_nf import flows
from pyro_nf import transforms as T  # noqa: N812

# The search for a root is no part of a graph, so the slow direction breaks one.
_LAYERS = [
    Case(
        "block-sample",
        lambda: T.BlockAutoregressive(4, [3, 5], order=[2, 0, 3, 1]),
        ("BlockAutoregressive",),
        fresh_is_identity=False,
        compiles="forward",
    ),
    Case(
        "block-log_prob-context",
        lambda: T.BlockAutoregressive(4, [6], "sigmoid", fast="log_prob", context_dim=3),
        ("BlockAutoregressive",),
        4,
        3,
        fresh_is_identity=False,
        compiles="inverse",
    ),
    Case(
        "block-elu-normal",
        lambda: T.BlockAutoregressive(3, [4, 4], "ELU", "normal"),
        ("BlockAutoregressive",),
        3,
        fresh_is_identity=False,
        compiles="forward",
    ),
    Case(
        "block-leaky-none",
        lambda: T.BlockAutoregressive(3, [4], "LeakyReLU", None, fast="log_prob"),
        ("BlockAutoregressive",),
        3,
        fresh_is_identity=False,
        compiles="inverse",
    ),
]

_FLOWS = [
    Case(
        f"flow-bnaf-{size}d" + ("-context" if c else ""),
        lambda size=size, c=c: (
            flows.bnaf(size, transforms=2, hidden_factors=(4,), context_dim=c).transform
        ),
        ("bnaf",),
        size,
        c,
        fresh_is_identity=False,
        compiles="inverse",
    )
    for size, c in ((1, 0), (3, 0), (3, 2))
]

CASES = [*_LAYERS, *_FLOWS]
