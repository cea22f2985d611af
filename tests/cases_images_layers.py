"""Cases of the layers of images: reorderings, normalisation, convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from case import SMOOTH, Case

from pyro_nf import transforms as T  # noqa: N812


def _case(
    name: str,
    covers: str,
    build: Callable[[], T.FlowTransform],
    event: tuple[int, ...],
    **facts: Any,
) -> Case:
    return Case(name, build, (covers,), input_dim=event[-1], event=event, **facts)


_FIXED = [
    _case("squeeze", "Squeeze", T.Squeeze, (2, 4, 4), fresh_is_identity=False),
    _case("unsqueeze", "Unsqueeze", T.Unsqueeze, (4, 2, 2), fresh_is_identity=False),
    _case("haar", "HaarDownsampling", T.HaarDownsampling, (2, 4, 4), fresh_is_identity=False),
    _case("reshape", "Reshape", lambda: T.Reshape((6,), (3, 1, 2)), (6,), fresh_is_identity=False),
    _case("flatten", "Flatten", lambda: T.Flatten((3, 1, 2)), (3, 1, 2), fresh_is_identity=False),
]

_LEARNED = [
    _case("actnorm2d", "ActNorm2d", lambda: T.ActNorm2d(3), (3, 2, 2)),
    *(
        _case(
            f"conv1x1-{weight}",
            "InvertibleConv1x1",
            lambda weight=weight: T.InvertibleConv1x1(3, weight),
            (3, 2, 2),
            fresh_is_identity=False,
        )
        for weight in ("plu", "qr", "plain")
    ),
    _case(
        "conv1x1-context",
        "InvertibleConv1x1",
        lambda: T.InvertibleConv1x1(2, seed=None, context_dim=3, **SMOOTH),
        (2, 2, 2),
        context_dim=3,
    ),
    _case("emerging", "EmergingConv2d", lambda: T.EmergingConv2d(2), (2, 3, 4)),
    _case("periodic", "PeriodicConv2d", lambda: T.PeriodicConv2d(2), (2, 3, 4)),
    _case("emerging-large", "EmergingConv2d", lambda: T.EmergingConv2d(2, 5), (2, 2, 2)),
]

CASES = [*_FIXED, *_LEARNED]
