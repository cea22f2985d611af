"""Data outside of a torus: the remedy is to wrap them, not to remove them."""

from __future__ import annotations

import math
from typing import Any

from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_nf.transforms._support.registered import unwrapped


def remedy(support: Constraint, otherwise: str) -> str:
    """How to mend data outside of a support: wrap them if they are angles, else ``otherwise``."""
    if _is_torus(support):
        return "Wrap angles by torch.remainder(y + math.pi, 2 * math.pi) - math.pi."
    return otherwise


def _is_torus(support: Constraint) -> bool:
    """Whether every number is an angle in [-π, π]."""
    constraint: Any = unwrapped(support)[0]
    return type(constraint) is type(constraints.interval(0, 1)) and (
        (constraint.lower_bound, constraint.upper_bound) == (-math.pi, math.pi)
    )
