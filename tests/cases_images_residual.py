"""Cases of residual layers of images."""

from __future__ import annotations

from case import Case

from pyro_nf import transforms as T  # noqa: N812

# The fixed point is an eager search: its direction has a break in the graph.
CASES = [
    Case(
        "residual2d",
        lambda: T.InvertibleResidual2d((2, 3, 2), fast="log_prob", hidden_channels=(3, 4)),
        ("InvertibleResidual2d",),
        compiles="inverse",
        event=(2, 3, 2),
    ),
    Case(
        "residual2d-sample-context",
        lambda: T.InvertibleResidual2d(
            (2, 2, 2), fast="sample", hidden_channels=(3,), activation="tanh", context_dim=3
        ),
        ("InvertibleResidual2d",),
        context_dim=3,
        compiles="forward",
        event=(2, 2, 2),
    ),
]
