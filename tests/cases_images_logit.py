"""Cases of the logit layer."""

from __future__ import annotations

from case import Case

from pyro_nf import transforms as T  # noqa: N812

CASES = [
    Case(
        "logit-image",
        lambda: T.Logit(alpha=0.05),
        ("Logit",),
        event=(2, 2, 2),
        fresh_is_identity=False,
    ),
    Case(
        "logit-vector",
        lambda: T.Logit(alpha=0.0, event_dim=1),
        ("Logit",),
        fresh_is_identity=False,
    ),
]
