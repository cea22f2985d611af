"""Cases of continuous layers and flows."""

from __future__ import annotations

from typing import Any

import torch
from case import Case
from torch import Tensor, nn

from pyro_nf import flows
from pyro_nf import transforms as T  # noqa: N812
from pyro_nf.nn import FieldMLP, PotentialField

# A solver's result is as exact as it was told to be, and depends on all rows of a batch. Its loop
# neither compiles nor maps; at 3·N(0, 1) the fields are so stiff that no tolerance is met in time.
SOLVED: dict[str, Any] = {
    "solver_error": 1e-4,
    "compiles": "neither",
    "maps": "neither",
    "traceable": False,
    "waits": True,
    "largest_scale": 1.0,
}
_TIGHT: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}


class OwnField(nn.Module):
    """A field as a user writes it, on rows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3 + 2 + 1, 6), nn.Linear(6, 3)

    def forward(self, t: Tensor, z: Tensor, context: Tensor) -> Tensor:
        time = t.expand(len(z), 1)
        return self.outer(torch.tanh(self.inner(torch.cat([z, context, time], -1))))


_LAYERS = [
    Case(
        "continuous",
        lambda: T.Continuous(FieldMLP(4, (6, 5)), **_TIGHT),
        ("Continuous",),
        **SOLVED,
    ),
    Case(
        "continuous-concat-context",
        lambda: T.Continuous(
            FieldMLP(3, (6,), context_dim=2, time="concat", activation="softplus"),
            norm="sample",
            learn_end_time=True,  # which may be e² here, and errors grow with the time
            rtol=2e-7,
            atol=2e-7,
        ),
        ("Continuous",),
        3,
        2,
        **SOLVED,
    ),
    Case(
        "continuous-potential",
        lambda: T.Continuous(PotentialField(3, 5), norm="max", **_TIGHT),
        ("Continuous",),
        3,
        **SOLVED,
    ),
    Case(
        "continuous-module-context",
        lambda: T.Continuous(OwnField(), 3, context_dim=2, norm="max", **_TIGHT),
        ("Continuous",),
        3,
        2,
        fresh_is_identity=False,
        **SOLVED,
    ),
]

_FLOWS = [
    Case(
        "flow-cnf-1d",
        lambda: flows.cnf(1, hidden_dims=(6, 6, 5), transforms=2, **_TIGHT).transform,
        ("cnf",),
        1,
        **SOLVED,
    ),
    Case(
        "flow-rnode-2d-context",
        lambda: flows.rnode(2, hidden_dims=(6, 5), context_dim=2, steps=30).transform,
        ("rnode",),
        2,
        2,
        **SOLVED,
    ),
    Case(
        "flow-ot_flow-2d-context",
        lambda: (
            flows.ot_flow(
                2, hidden_dim=5, context_dim=2, solver="dopri5", steps=None, **_TIGHT
            ).transform
        ),
        ("ot_flow",),
        2,
        2,
        **SOLVED,
    ),
]

CASES = [*_LAYERS, *_FLOWS]
