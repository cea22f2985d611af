"""Data outside of a torus: the remedy is to wrap them, not to remove them."""

from __future__ import annotations

import math
from typing import Any

import torch
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
    if type(constraint) is not type(constraints.interval(0, 1)):
        return False
    bounds = constraint.lower_bound, constraint.upper_bound
    return bool(torch.as_tensor(bounds[0] == -math.pi).all()) and bool(
        torch.as_tensor(bounds[1] == math.pi).all()
    )
