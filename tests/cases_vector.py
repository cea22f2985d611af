"""Cases of the vector bijections, their wiring and the flows made of them."""

from __future__ import annotations

from collections.abc import Callable

from case import SMOOTH, Case
from torch.distributions import ReshapeTransform

from pyro_nf import bijections as B  # noqa: N812
from pyro_nf import flows
from pyro_nf import transforms as T  # noqa: N812

_BIJECTIONS = {
    "planar": B.Planar(),
    "radial": B.Radial(),
    "sylvester": B.Sylvester(units=3),
    "sylvester_householder": B.Sylvester("householder", reflections=2),
    "sylvester_triangular": B.Sylvester("triangular", order="reversed"),
    "cayley": B.Rotation("cayley"),
    "matrix_exponential": B.MatrixExponential(),
    "woodbury": B.Woodbury(rank=2),
}
# The search for a root is eager: it does not compile.
_ROOTS = ("planar", "sylvester", "sylvester_householder", "sylvester_triangular")


def _joint() -> list[Case]:
    return [
        Case(
            f"joint-{name}-context" if c else f"joint-{name}",
            lambda f=f, c=c: T.Joint(f, 4, context_dim=c, **SMOOTH),
            ("Joint", type(f).__name__),
            4,
            c,
            compiles="forward" if name in _ROOTS else "both",
        )
        for name, f in _BIJECTIONS.items()
        for c in (0, 3)
    ]


def _image_layer(context_dim: int) -> T.Compose:
    """A layer of images between reshapings, since the registry feeds vectors."""
    layer = T.GeneralizedChannelPermute(3, seed=1, context_dim=context_dim, **SMOOTH)
    to_image = ReshapeTransform((6,), (3, 1, 2))
    return T.Compose([to_image, layer, to_image.inv])


_LINEAR: dict[str, tuple[tuple[str, ...], Callable[[], T.FlowTransform]]] = {
    "diagonal_scale": (
        ("DiagonalScale",),
        lambda: T.DiagonalScale(4, context_dim=3, **SMOOTH),
    ),
    "triangular": (
        ("TriangularAffine",),
        lambda: T.TriangularAffine(4, context_dim=3, **SMOOTH),
    ),
    "lu": (("LULinear",), lambda: T.LULinear(4, context_dim=3, **SMOOTH)),
    "qr": (("QRLinear",), lambda: T.QRLinear(4, context_dim=3, **SMOOTH)),
    "householder": (("Householder",), lambda: T.Householder(4, context_dim=3, **SMOOTH)),
    "rotation": (("Rotation",), lambda: T.Rotation(4, context_dim=3, **SMOOTH)),
}
_LAYERS = [
    *(Case(f"{name}-context", make, covers, 4, 3) for name, (covers, make) in _LINEAR.items()),
    Case(
        "batchnorm-context",
        lambda: T.BatchNorm(4, context_dim=3, **SMOOTH).eval(),
        ("BatchNorm",),
        4,
        3,
        fresh_is_identity=False,
    ),
    *(
        Case(
            f"channel_permute{'-context' if c else ''}",
            lambda c=c: _image_layer(c),
            ("GeneralizedChannelPermute",),
            6,
            c,
            fresh_is_identity=False,
        )
        for c in (0, 3)
    ),
]

_FLOWS = [
    Case(
        f"flow-{name}-{size}d" + ("-context" if c else ""),
        lambda make=make, size=size, c=c: (
            make(size, transforms=2, context_dim=c, **SMOOTH).transform
        ),
        (name,),
        size,
        c,
        compiles="both" if name == "radial" else "inverse",  # roots are base -> data here
    )
    for name, make in (
        ("planar", flows.planar),
        ("radial", flows.radial),
        ("sylvester", flows.sylvester),
    )
    for size, c in ((1, 0), (3, 2))
]

CASES = [*_joint(), *_LAYERS, *_FLOWS]
