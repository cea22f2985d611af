"""Cases of tail maps, integrals, chains of bijections, and graphs."""

from __future__ import annotations

from dataclasses import replace

from case import SMOOTH, Case, wired

from pyro_nf import bijections as B  # noqa: N812
from pyro_nf import flows
from pyro_nf import transforms as T  # noqa: N812

_DIAMOND = [[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0]]


def _found_by_a_search(cases: list[Case]) -> list[Case]:
    """Declares that the direction which searches for a root compiles to no single graph."""
    return [
        replace(case, compiles="inverse" if case.name.startswith("maf") else "forward")
        for case in cases
    ]


_BIJECTIONS = [
    # Powers above 2 of large values, shifted and scaled by networks that read such values in turn,
    # leave no row of the slow direction that float64 can invert at 3·N(0, 1).
    *wired("sinh-arcsinh", B.SinhArcsinh(max_tailweight=2.0)),
    # A threshold that the tests' inputs cross.
    # Its inverse grows exponentially: e^100 is beyond float32, and so are such tails.
    *wired("soft-log", B.SoftLog(threshold=0.6), fresh_is_identity=False, far=False),
    *wired("tail-transform", B.TailTransform(), fresh_is_identity=False, far=False),
    *_found_by_a_search(wired("umnn", B.UnconstrainedMonotonic(units=4))),
    *wired(
        "chain",
        B.Chain([B.Affine(max_log_scale=1.0), B.RationalQuadraticSpline(bins=4, bound=3.0)]),
    ),
]

_GRAPHS = [
    Case(
        "maf-adjacency",
        lambda: T.Autoregressive(
            B.Affine(),
            4,
            fast="log_prob",
            adjacency=_DIAMOND,
            hidden_dims=(6, 4),
            activation="silu",
        ),
        ("Autoregressive",),
    ),
    Case(
        "iaf-adjacency-context",
        lambda: T.Autoregressive(
            B.SinhArcsinh(), 4, fast="sample", adjacency=_DIAMOND, context_dim=3, **SMOOTH
        ),
        ("Autoregressive",),
        context_dim=3,
    ),
    Case(
        "flow-nsf-adjacency",
        lambda: flows.nsf(4, transforms=2, bins=4, adjacency=_DIAMOND, **SMOOTH).transform,
        ("nsf",),
    ),
]

_FLOWS = [
    Case(
        f"flow-umnn-{size}d" + ("-context" if c else ""),
        lambda size=size, c=c: (
            flows.umnn(size, transforms=2, units=3, context_dim=c, **SMOOTH).transform
        ),
        ("umnn",),
        size,
        c,
        compiles="inverse",
    )
    for size, c in ((1, 0), (3, 2))
]

CASES = [*_BIJECTIONS, *_GRAPHS, *_FLOWS]
