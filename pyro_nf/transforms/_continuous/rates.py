"""What a solve integrates of a field: velocity, divergence, and the norm of the Jacobian.

There are two kinds of fields: those of :mod:`pyro_nf.nn`, features first, which know the products
of their Jacobian; and any other module, on rows, whose Jacobian is autograd's.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from pyro_nf.nn.field import Field, Values
from pyro_nf.transforms._continuous.leaves import depends_beyond


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
        z, velocity, keep_graph = self._evaluate(t, z)
        divergence = frobenius = z.new_zeros(len(z))
        basis = torch.eye(z[0].numel(), dtype=z.dtype, device=z.device)
        for i, vector in enumerate(basis):
            vector = vector.reshape(z.shape[1:]).expand_as(z)
            row = self._product(t, z, velocity, vector, keep_graph=keep_graph)
            divergence = divergence + row[:, i]
            frobenius = frobenius + row.square().sum(1)
        return velocity if keep_graph else velocity.detach(), divergence, frobenius

    def estimated(self, t: Tensor, z: Tensor, probe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, velocity, keep_graph = self._evaluate(t, z)
        product = self._product(t, z, velocity, probe, keep_graph=keep_graph)
        divergence, frobenius = (probe.flatten(1) * product).sum(1), product.square().sum(1)
        return velocity if keep_graph else velocity.detach(), divergence, frobenius

    def side_rate(self, name: str, t: Tensor, z: Tensor) -> Tensor:
        raise NotImplementedError

    def squared_norm(self, velocity: Tensor) -> Tensor:
        return velocity.flatten(1).square().sum(1)

    def _evaluate(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor, bool]:
        """The state with a graph, the velocity there, and whether its graph is asked for."""
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            if wanted and z.requires_grad:
                return z, self.velocity(t, z), True
            z = z.detach().requires_grad_()
            velocity = self.velocity(t, z)
        return z, velocity, wanted and depends_beyond(velocity, z)

    def _product(
        self, t: Tensor, z: Tensor, velocity: Tensor, vector: Tensor, *, keep_graph: bool
    ) -> Tensor:
        """The vector times the Jacobian, ``(rows, numbers of an event)``."""
        product = None
        if velocity.requires_grad:
            (product,) = torch.autograd.grad(
                velocity, z, vector, create_graph=keep_graph, retain_graph=True, allow_unused=True
            )
        if product is None:
            self._check_constant(t, z, velocity)
            product = torch.zeros_like(z)
        return product.flatten(1)

    @torch.no_grad()
    def _check_constant(self, t: Tensor, z: Tensor, velocity: Tensor) -> None:
        """Raises if a velocity without a gradient by z depends on z: its divergence is not 0."""
        if not torch.equal(self.velocity(t, z + 1), velocity):
            raise ValueError(
                f"The field {type(self._module).__name__} depends on z, but its graph does not "
                "lead there: its divergence would be taken for 0. Leave out torch.no_grad() and "
                "detach()."
            )
