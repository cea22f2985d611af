"""Whether two supports are the same set, up to their boundaries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_nf.transforms._support.registered import unwrapped

# Open and closed bounds differ by a set without volume.
_CLOSED: dict[type[Constraint], type[Constraint]] = {
    constraints.greater_than_eq: constraints.greater_than,
    constraints.half_open_interval: constraints.interval,
}


def same_support(a: Constraint | None, b: Constraint | None) -> bool:
    """Whether two supports agree; true too where one of them cannot tell."""
    if a is None or b is None:
        return True
    first, second = unwrapped(a)[0], unwrapped(b)[0]
    if constraints.is_dependent(first) or constraints.is_dependent(second):
        return True
    return _kind(first) is _kind(second) and _same(vars(first), vars(second))


def is_interval(support: Constraint) -> bool:
    """Whether every number of a support lies between two bounds of its own."""
    return _kind(unwrapped(support)[0]) is constraints.interval


def _kind(constraint: Constraint) -> type[Constraint]:
    return _CLOSED.get(type(constraint), type(constraint))


def _same(a: Any, b: Any) -> bool:
    """Whether what two constraints hold is the same, up to the rounding of their dtypes."""
    if isinstance(a, Constraint) and isinstance(b, Constraint):
        return same_support(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return _equal(torch.as_tensor(a), torch.as_tensor(b))
    return bool(a == b)


@torch.no_grad()
def _equal(a: Tensor, b: Tensor) -> bool:
    if a.is_meta or b.is_meta:
        return True
    try:
        a, b = torch.broadcast_tensors(a.cpu(), b.cpu())
    except RuntimeError:
        return False
    # What was made in float32 stays off by its rounding in float64.
    dtypes = torch.float32, *(t.dtype for t in (a, b) if t.is_floating_point())
    unit = max(torch.finfo(dtype).eps for dtype in dtypes)
    return torch.allclose(a.double(), b.double(), rtol=unit, atol=0.0)
