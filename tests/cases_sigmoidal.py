"""Cases of the sigmoidal and mixture bijections and their flows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from case import SMOOTH, Case

from pyro_nf import bijections as B  # noqa: N812
from pyro_nf import flows
from pyro_nf import transforms as T  # noqa: N812

_BIJECTIONS: dict[str, B.ScalarBijection] = {
    "deep_sigmoidal": B.DeepSigmoidal(units=3),
    "deep_dense_sigmoidal": B.DeepDenseSigmoidal(units=2),
    "logistic_mixture": B.LogisticMixture(components=3),
    "gaussian_mixture": B.GaussianMixtureProbit(components=3),
}
_ACTIVATIONS = ("tanh", "elu", "leaky_relu")


def _wirings() -> list[Case]:
    cases = []
    for name, f in _BIJECTIONS.items():
        builders: dict[str, tuple[str, int, str, Callable[[], T.FlowTransform]]] = {
            "elementwise": ("Elementwise", 0, "forward", lambda f=f: T.Elementwise(f, 4)),
            "coupling": (
                "Coupling",
                3,
                "forward",
                lambda f=f: T.Coupling(f, 4, context_dim=3, **SMOOTH),
            ),
            "maf": (
                "Autoregressive",
                0,
                "inverse",
                lambda f=f: T.Autoregressive(f, 4, fast="log_prob", **SMOOTH),
            ),
            "iaf": (
                "Autoregressive",
                3,
                "forward",
                lambda f=f: T.Autoregressive(
                    f, 4, fast="sample", context_dim=3, order=[2, 0, 3, 1], **SMOOTH
                ),
            ),
        }
        cases += [
            Case(
                f"{wiring}-{name}" + ("-context" if c else ""),
                build,
                (cls, type(f).__name__),
                4,
                c,
                fresh_is_identity=False,  # the units differ from the start
                compiles=compiles,  # a search for a root is no graph
                # Between units that perturbed parameters drive apart the slope falls below
                # 1e-16, here for every row: x is gone.
                largest_scale=1.0 if (wiring, name) == ("iaf", "deep_dense_sigmoidal") else 3.0,
            )
            for wiring, (cls, c, compiles, build) in builders.items()
        ]
    return cases


_OTHER_ACTIVATIONS = [
    Case(
        f"elementwise-deep_sigmoidal-{activation}",
        lambda a=activation: T.Elementwise(B.DeepSigmoidal(units=3, activation=a), 4),
        ("DeepSigmoidal",),
        fresh_is_identity=False,
        compiles="forward",
    )
    for activation in _ACTIVATIONS
]

_FLOW_FACTORIES = {
    # One layer: the slow direction of two perturbed ones is too ill-conditioned to be compared.
    "naf": ("naf", partial(flows.naf, units=3, transforms=1, **SMOOTH)),
    "naf-ddsf": (
        "naf",
        partial(flows.naf, transformer="ddsf", fast="sample", units=2, transforms=1, **SMOOTH),
    ),
    "flow_plus_plus": (
        "flow_plus_plus",
        partial(flows.flow_plus_plus, components=3, transforms=2, **SMOOTH),
    ),
    "gaussianization": (
        "gaussianization",
        partial(flows.gaussianization, components=3, transforms=2, **SMOOTH),
    ),
}
_FLOWS = [
    Case(
        f"flow-{label}-{size}d" + ("-context" if c else ""),
        lambda make=make, size=size, c=c: make(size, context_dim=c).transform,
        (public,),
        size,
        c,
        fresh_is_identity=False,
        compiles="forward" if label == "naf-ddsf" else "inverse",
        largest_scale=1.0,  # as above: two layers drive their units apart
    )
    for label, (public, make) in _FLOW_FACTORIES.items()
    for size, c in ((1, 0), (3, 2))
]

CASES = [*_wirings(), *_OTHER_ACTIVATIONS, *_FLOWS]
