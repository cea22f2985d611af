"""Cases of the convex potential layer and flow."""

from __future__ import annotations

from case import Case

from pyro_nf import flows
from pyro_nf import transforms as T  # noqa: N812
from pyro_nf.bijections import Root


def _layer(name: str, fast: str, context_dim: int = 0, **options: object) -> Case:
    return Case(
        name,
        lambda: T.ConvexPotential(
            4, fast=fast, hidden_dims=(6, 5), context_dim=context_dim, **options
        ),
        ("ConvexPotential",),
        4,
        context_dim,
        fresh_is_identity=False,  # positive weights are not 0
        # The minimisation is eager, and stops early, under a compiler too.
        compiles="forward" if fast == "sample" else "inverse",
    )


CASES = [
    _layer("convex", "log_prob"),
    _layer("convex-context", "sample", 3),
    # Fewer evaluations than by default: where rows are traced, all of them are taken.
    _layer("convex-lbfgs", "sample", solver="lbfgs", root=Root(iterations=150)),
    *(
        Case(
            f"flow-convex_potential-{size}d" + ("-context" if context_dim else ""),
            lambda size=size, context_dim=context_dim: (
                flows.convex_potential(
                    size, transforms=2, hidden_dims=(6,), context_dim=context_dim
                ).transform
            ),
            ("convex_potential",),
            size,
            context_dim,
            fresh_is_identity=False,
            compiles="inverse",
        )
        for size, context_dim in ((1, 0), (3, 2))
    ),
]
