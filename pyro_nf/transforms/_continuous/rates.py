"""What a solve integrates of a field: velocity, divergence, and the norm of the Jacobian.

There are two kinds of fields: those of :mod:`pyro_nf.nn`, features first, which know the products
of their Jacobian; and any other module, on rows, whose Jacobian is autograd's.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from pyro_nf.nn.field import Field, Values


class Rates(Protocol):
    """A field with its weights and context fixed, as a function of time and state."""

    def velocity(self, t: Tensor, z: Tensor) -> Tensor:
        """The velocity, of the shape of z."""

    def closed(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity and the divergence, one number a sample, in closed form."""

    def exact(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The velocity, the divergence and the squared Frobenius norm, by D products."""

    def estimated(self, t: Tensor, z: Tensor, probe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same two numbers estimated by the product with one random vector a sample."""

    def side_rate(self, name: str, t: Tensor, z: Tensor) -> Tensor:
        """A further rate of the field, one number a sample."""

    def squared_norm(self, velocity: Tensor) -> Tensor:
        """The squared length of each sample's velocity."""


# Tangents are pushed in groups of about this many numbers a hidden unit, to bound the memory.
_GROUP = 2**18


class ColumnRates:
    """The rates of a :class:`~pyro_nf.nn.Field`, on z of shape ``(D, columns)``."""

    def __init__(self, field: Field, values: Values) -> None:
        self._field, self._values = field, values

    def velocity(self, t: Tensor, z: Tensor) -> Tensor:
        return self._field.velocity(self._values, t, z)

    def closed(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return self._field.with_divergence(self._values, t, z)

    def exact(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        basis = torch.eye(len(z), dtype=z.dtype, device=z.device)
        groups = basis.split(max(1, _GROUP // z.shape[1]), 1)
        divergence = frobenius = z.new_zeros(z.shape[1])
        velocity, first = z, 0
        for group in groups:  # (D, K)
            velocity, products = self._field.with_products(self._values, t, z, group[..., None])
            rows = products[first : first + group.shape[1]]  # (K, K, columns)
            divergence = divergence + rows.diagonal().sum(-1)
            frobenius = frobenius + products.square().sum((0, 1))
            first += group.shape[1]
        return velocity, divergence, frobenius

    def estimated(self, t: Tensor, z: Tensor, probe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        velocity, products = self._field.with_products(self._values, t, z, probe.unsqueeze(1))
        product = products.squeeze(1)
        return velocity, (probe * product).sum(0), product.square().sum(0)

    def side_rate(self, name: str, t: Tensor, z: Tensor) -> Tensor:
        return self._field.side_rate(name, self._values, t, z)

    def squared_norm(self, velocity: Tensor) -> Tensor:
        return velocity.square().sum(0)


class ModuleRates:
    """The rates of a user's module, on z of shape ``(rows, *event)``."""

    def __init__(self, module: nn.Module, context: Tensor | None) -> None:
        self._module, self._context = module, context

    def velocity(self, t: Tensor, z: Tensor) -> Tensor:
        context = () if self._context is None else (self._context,)
        velocity = self._module(t, z, *context)
        if not isinstance(velocity, Tensor) or velocity.shape != z.shape:
            got = (
                f"shape {tuple(velocity.shape)}"
                if isinstance(velocity, Tensor)
                else type(velocity).__name__
            )
            raise ValueError(
                f"The field {type(self._module).__name__} returned {got} for z of shape "
                f"{tuple(z.shape)}. Return the velocity dz/dt, a tensor of the shape of z."
            )
        return velocity

    def closed(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def exact(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keep_graph = torch.is_grad_enabled()
        divergence = frobenius = z.new_zeros(len(z))
        with torch.enable_grad():
            z = z if keep_graph and z.requires_grad else z.detach().requires_grad_()
            velocity = self.velocity(t, z)
            for i, component in enumerate(velocity.flatten(1).unbind(1)):
                row = _gradient(component.sum(), z, keep_graph).flatten(1)
                divergence = divergence + row[:, i]
                frobenius = frobenius + row.square().sum(1)
        if keep_graph:
            return velocity, divergence, frobenius
        return velocity.detach(), divergence.detach(), frobenius.detach()

    def estimated(self, t: Tensor, z: Tensor, probe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keep_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            z = z if keep_graph and z.requires_grad else z.detach().requires_grad_()
            velocity = self.velocity(t, z)
            product = _gradient((velocity * probe).sum(), z, keep_graph).flatten(1)
            divergence, frobenius = (probe.flatten(1) * product).sum(1), product.square().sum(1)
        if keep_graph:
            return velocity, divergence, frobenius
        return velocity.detach(), divergence.detach(), frobenius.detach()

    def side_rate(self, name: str, t: Tensor, z: Tensor) -> Tensor:
        raise NotImplementedError

    def squared_norm(self, velocity: Tensor) -> Tensor:
        return velocity.flatten(1).square().sum(1)


def _gradient(value: Tensor, z: Tensor, keep_graph: bool) -> Tensor:  # noqa: FBT001
    """The gradient of ``value``; zeros for a field that does not look at the state."""
    if not value.requires_grad:
        return torch.zeros_like(z)
    (gradient,) = torch.autograd.grad(
        value, z, create_graph=keep_graph, retain_graph=True, materialize_grads=True
    )
    return gradient
