"""Vector fields as users write them, and continuous layers to test."""

from __future__ import annotations

from typing import Any

import torch
from case import perturb
from torch import Tensor, nn

from pyro_nf.nn import FieldMLP, PotentialField
from pyro_nf.transforms import Continuous

TIGHT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


def points(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class OwnField(nn.Module):
    """A network of z, t and a context, on rows."""

    def __init__(self, size: int = 2, context_dim: int = 0) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(size + context_dim + 1, 4), nn.Linear(4, size)

    def forward(self, t: Tensor, z: Tensor, *context: Tensor) -> Tensor:
        h = torch.cat([z, t.expand(len(z), 1), *context], 1)
        return self.outer(torch.tanh(self.inner(h)))


class OwnPotential(nn.Module):
    """The gradient of a network, taken by autograd within the field."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Softplus(), nn.Linear(4, 1))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.net(z).sum(), z, create_graph=True)
            return slope * (1 + t)


class Formula(nn.Module):
    """A function of a parameter a = 1, the time and the state."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.a = function, nn.Parameter(torch.ones(()).double())

    def forward(self, t: Tensor, z: Tensor, *context: Tensor) -> Tensor:
        return self.function(self.a, t, z, *context)


def mlp(size: int = 2, hidden: tuple[int, ...] = (5,), scale: float = 0.6, **options: Any):
    field = FieldMLP(size, hidden, **{"time": "concatsquash"} | options).double()
    perturb(field, scale)
    return field


def layer_of(field: nn.Module, *size: Any, scale: float | None = None, **options: Any):
    """A continuous layer in float64 with the field's parameters from ``scale``·N(0, 1)."""
    if scale is not None:
        perturb(field, scale)
    return Continuous(field, *size, **options).double()


KINDS = {
    "closed": (lambda: mlp(2, (4, 3), context_dim=2), {}),
    "exact": (lambda: mlp(2, (4, 3, 3), context_dim=2), {}),
    "hutchinson": (lambda: mlp(2, (4,), context_dim=2, time="concat"), {"trace": "hutchinson"}),
    "potential": (lambda: PotentialField(2, 4, context_dim=2), {}),
    "module": (lambda: OwnField(2, 2), {"input_dim": 2, "context_dim": 2}),
    "module-hutchinson": (
        lambda: OwnField(2, 2),
        {"input_dim": 2, "context_dim": 2, "trace": "hutchinson", "probe": "gaussian"},
    ),
    "module-potential": (OwnPotential, {"input_dim": 2}),
}


class Encoded(nn.Module):
    """A layer whose context an encoder produces, as one function of all its leaves."""

    def __init__(self, kind: str, **options: object) -> None:
        super().__init__()
        make, fixed = KINDS[kind]
        torch.manual_seed(0)
        self.layer = layer_of(make(), scale=0.5, learn_end_time=True, **fixed, **options)
        self.encoder = nn.Linear(3, 2).double() if self.layer.context_dim else None

    def forward(self, direction: str, x: Tensor, features: Tensor) -> Tensor:
        context = None if self.encoder is None else self.encoder(features)
        torch.manual_seed(1)  # one random vector
        z, ladj = getattr(self.layer, f"{direction}_and_ladj")(x, context)
        return (z * z.sin()).sum() + ladj.square().sum()

    def gradients(self, direction: str) -> dict[str, Tensor]:
        """By name, of all leaves that the value depends on."""
        leaves = dict(self.named_parameters())
        leaves |= {"x": points(3, 2).requires_grad_(), "features": points(3, 3).requires_grad_()}
        value = self(direction, leaves["x"], leaves["features"])
        out = torch.autograd.grad(value, leaves.values(), materialize_grads=True)
        return {n: g for n, g in zip(leaves, out, strict=True) if g.any()}
