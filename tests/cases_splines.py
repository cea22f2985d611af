"""Cases of the further splines, the circular one, and the polynomials."""

from __future__ import annotations

from dataclasses import replace

from case import SMOOTH, Case, wired

from pyro_nf import bijections as B  # noqa: N812
from pyro_nf import flows
from pyro_nf import transforms as T  # noqa: N812

_CLOSED = {
    "cubic": B.CubicSpline(bins=5, bound=3.0),
    "linear": B.LinearSpline(bins=5, bound=3.0),
    "quadratic": B.QuadraticSpline(bins=5, bound=3.0),
}
_SEARCHED = {
    "bernstein": B.Bernstein(degree=6, bound=3.0),
    "sos": B.SumOfSquares(degree=2, count=2),
}


def _searched(name: str, f: B.ScalarBijection) -> list[Case]:
    """The search for a numerical root is eager: its direction has a break in the graph."""
    cases = wired(name, f, compiles="forward")
    return [
        replace(case, compiles="inverse") if case.name == f"maf-{name}" else case for case in cases
    ]


_FLOWS = [
    Case(
        f"flow-{name}-{size}d" + ("-context" if c else ""),
        lambda make=make, size=size, c=c: (
            make(size, transforms=2, degree=3, context_dim=c, **SMOOTH).transform
        ),
        (name,),
        size,
        c,
        compiles="inverse",
        # Slopes of 1e-3 in both layers, under shifts of 1e7: float64 has no digits left for x.
        largest_scale=1.0 if name == "bernstein" and c else 3.0,
    )
    for name, make in (("sos", flows.sos), ("bernstein", flows.bernstein))
    for size, c in ((1, 0), (3, 2))
]

_CIRCLE = B.CircularSpline(bins=5)
_PERIODIC = {**SMOOTH, "features": "periodic"}
_ANGLES = [
    Case(
        name,
        build,
        (public, "CircularSpline"),
        4,
        c,
        # No angle is outside of the box: slopes fall to e^-10 in every dimension.
        largest_scale=1.0 if c else 3.0,
        far=False,
    )
    for name, c, public, build in (
        ("elementwise-circular", 0, "Elementwise", lambda: T.Elementwise(_CIRCLE, 4)),
        (
            "coupling-circular-context",
            3,
            "Coupling",
            lambda: T.Coupling(_CIRCLE, 4, context_dim=3, **_PERIODIC),
        ),
        (
            "maf-circular",
            0,
            "Autoregressive",
            lambda: T.Autoregressive(_CIRCLE, 4, fast="log_prob", **_PERIODIC),
        ),
        (
            "iaf-circular-context",
            3,
            "Autoregressive",
            lambda: T.Autoregressive(
                _CIRCLE, 4, fast="sample", context_dim=3, order=[2, 0, 3, 1], **_PERIODIC
            ),
        ),
        *(
            (
                f"flow-circular-{wiring}" + ("-context" if c else ""),
                c,
                "circular_nsf",
                lambda wiring=wiring, c=c: (
                    flows.circular_nsf(
                        4, wiring=wiring, transforms=2, bins=5, context_dim=c, **SMOOTH
                    ).transform
                ),
            )
            for wiring, c in (("autoregressive", 0), ("coupling", 2))
        ),
    )
]

CASES = [
    *(case for name, f in _CLOSED.items() for case in wired(name, f)),
    *(case for name, f in _SEARCHED.items() for case in _searched(name, f)),
    *_ANGLES,
    *_FLOWS,
]
