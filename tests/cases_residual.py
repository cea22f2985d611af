"""Cases of residual layers and flows."""

from __future__ import annotations

from case import Case

from pyro_nf import flows
from pyro_nf import transforms as T  # noqa: N812

# The fixed point is an eager search: its direction has a break in the graph.
_LAYERS = [
    Case(
        "residual",
        lambda: T.InvertibleResidual(4, fast="log_prob", hidden_dims=(6, 5)),
        ("InvertibleResidual",),
        compiles="inverse",
    ),
    Case(
        "residual-sample-context",
        lambda: T.InvertibleResidual(
            4, fast="sample", hidden_dims=(6,), activation="lipswish", context_dim=3
        ),
        ("InvertibleResidual",),
        4,
        3,
        compiles="forward",
    ),
]

_FLOWS = [
    Case(
        f"flow-residual-{size}d" + ("-context" if c else ""),
        lambda size=size, c=c: (
            flows.residual_flow(
                size, transforms=2, hidden_dims=(6,), context_dim=c, activation="tanh"
            ).transform
        ),
        ("residual_flow",),
        size,
        c,
        compiles="inverse",
    )
    for size, c in ((1, 0), (3, 2))
]

CASES = [*_LAYERS, *_FLOWS]
