"""Cases of the basic bijections, wirings, layers and flows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from case import SMOOTH, Case, wired
from torch.distributions import ExpTransform, SigmoidTransform, constraints

from pyro_nf import bijections as B  # noqa: N812
from pyro_nf import distributions as D  # noqa: N812
from pyro_nf import flows
from pyro_nf import transforms as T  # noqa: N812


def _affine_chain() -> T.Compose:
    return T.Compose([T.TriangularAffine(4), T.Permutation([1, 0, 3, 2]), T.ActNorm(4).inv])


def _support(constraint: object, size: int) -> Callable[[], T.FlowTransform]:
    return lambda: T.ToSupport(constraint, size)


_SPLINE = B.RationalQuadraticSpline(bins=5, bound=3.0)


_WIRINGS = [
    *wired("affine", B.Affine()),
    *wired("additive", B.Additive()),
    # A gate has no least value: sigmoid(-100), and x is gone.
    *wired("gated", B.GatedAffine(), fresh_is_identity=False, largest_scale=1.0, far=False),
    *wired("rq", _SPLINE, every="combination"),
    *wired("rq_ends", B.RationalQuadraticSpline(bins=5, bound=3.0, boundary_slopes="learned")),
    *wired("lr", B.LinearRationalSpline(bins=5, bound=3.0)),
    *wired("lr_ends", B.LinearRationalSpline(bins=5, bound=3.0, boundary_slopes="learned")),
]


_LAYERS = [
    Case(
        "coupling-random-mask",
        lambda: T.Coupling(_SPLINE, 5, mask=T.coupling_mask(5, "random", seed=3), **SMOOTH),
        ("Coupling", "coupling_mask"),
        5,
    ),
    Case(
        "coupling-custom-mask",
        lambda: T.Coupling(B.Affine(), 3, mask=[False, True, False], residual="skip", **SMOOTH),
        ("Coupling",),
        3,
    ),
    Case("coupling-one-dim", lambda: T.Coupling(B.Affine(), 1, **SMOOTH), ("Coupling",), 1),
    Case(
        "maf-one-dim",
        lambda: T.Autoregressive(_SPLINE, 1, fast="log_prob", **SMOOTH),
        ("Autoregressive",),
        1,
    ),
    Case(
        "iaf-residual-narrow",
        lambda: T.Autoregressive(
            B.Affine(), 6, fast="sample", hidden_dims=(3, 3, 3), activation="tanh", residual="skip"
        ),
        ("Autoregressive",),
        6,
    ),
    Case(
        "permutation",
        lambda: T.Permutation([2, 0, 3, 1]),
        ("Permutation",),
        fresh_is_identity=False,
    ),
    Case("diagonal_scale", lambda: T.DiagonalScale(4), ("DiagonalScale",)),
    Case("lu", lambda: T.LULinear(4), ("LULinear",)),
    Case("qr", lambda: T.QRLinear(4), ("QRLinear",)),
    Case("householder", lambda: T.Householder(4), ("Householder",)),
    Case("rotation", lambda: T.Rotation(4), ("Rotation",)),
    Case("triangular", lambda: T.TriangularAffine(4), ("TriangularAffine",)),
    Case("actnorm", lambda: T.ActNorm(4), ("ActNorm",)),
    Case("batchnorm", lambda: T.BatchNorm(4).eval(), ("BatchNorm",), fresh_is_identity=False),
    Case("standardize", lambda: T.Standardize(4), ("Standardize",)),
    Case("inverse", lambda: T.TriangularAffine(4).inv, ("Inverse",)),
    Case(
        "compose",
        _affine_chain,
        (
            "Compose",
            "ComposeTransform",
            "ComposeTransformModule",
            "ConditionalComposeTransformModule",
        ),
        fresh_is_identity=False,
    ),
    Case(
        "compose-torch-parts",
        lambda: T.Compose([T.TriangularAffine(3), ExpTransform(), SigmoidTransform().inv.inv]),
        ("Compose",),
        3,
        fresh_is_identity=False,
        far=False,  # exp(100)
    ),
    Case(
        "compose-context",
        lambda: T.Compose(
            [T.LULinear(4), T.Coupling(B.Affine(), 4, context_dim=3, **SMOOTH), T.Rotation(4)]
        ),
        ("Compose",),
        4,
        3,
    ),
]

_SUPPORTS = [
    # At ±100 a positive number overflows, and a simplex's numbers underflow.
    Case(
        f"support-{name}",
        _support(c, size),
        ("ToSupport",),
        size,
        fresh_is_identity=False,
        far=False,
    )
    for name, c, size in (
        ("positive", constraints.positive, 3),
        ("interval", constraints.interval(-1.0, 2.5), 3),
        ("simplex", constraints.simplex, 3),
        ("mixed", [constraints.positive, constraints.real, constraints.unit_interval], 3),
    )
]

_FLOW_FACTORIES: dict[str, tuple[str, Callable[..., D.Flow]]] = {
    "nice": ("nice", flows.nice),
    "realnvp": ("realnvp", flows.realnvp),
    "maf": ("maf", flows.maf),
    "iaf": ("iaf", flows.iaf),
    "nsf": ("nsf", partial(flows.nsf, bins=5)),
    "nsf_coupling": ("nsf", partial(flows.nsf, wiring="coupling", bins=5)),
}
_FLOWS = [
    Case(
        f"flow-{label}-{size}d" + ("-context" if c else ""),
        lambda make=make, size=size, c=c: (
            make(size, transforms=2, context_dim=c, **SMOOTH).transform
        ),
        (public,),
        size,
        c,
    )
    for label, (public, make) in _FLOW_FACTORIES.items()
    for size, c in ((1, 0), (3, 0), (3, 2))
    if (size, c) != (3, 0) or label == "nsf"  # one is compiled without a context
]

CASES = [*_WIRINGS, *_LAYERS, *_SUPPORTS, *_FLOWS]
