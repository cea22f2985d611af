"""Small flows of integers, and integers."""

from __future__ import annotations

import torch
from torch.distributions import constraints

from pyro_nf.bijections import Affine
from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.transforms import Coupling, Logit, LULinear, Reshape

UNIT = constraints.unit_interval
LEVELS = 4


def vectors(size: int = 2, context_dim: int = 0, support=UNIT, bijection=None) -> Flow:
    """A small flow of vectors."""
    layers = [
        LULinear(size),
        Coupling(
            Affine() if bijection is None else bijection,
            size,
            context_dim=context_dim,
            hidden_dims=(8,),
            activation="silu",
        ),
    ]
    return Flow(DiagonalNormal(size), layers, support=support)


def images(context_dim: int = 0, alpha: float = 0.05) -> Flow:
    """A small flow of images (1, 2, 3)."""
    coupling = Coupling(Affine(), 6, context_dim=context_dim, hidden_dims=(8,))
    return Flow(DiagonalNormal(6), [coupling, Reshape((6,), (1, 2, 3)), Logit(alpha)])


def integers(*shape: int, levels: int = LEVELS) -> torch.Tensor:
    return torch.randint(levels, shape, generator=torch.Generator().manual_seed(3))
