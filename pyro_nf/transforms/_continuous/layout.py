"""How values enter a solve: as columns for our own fields, as rows for other modules."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from pyro_nf.nn.field import Field, Values
from pyro_nf.transforms._continuous.leaves import depends_beyond
from pyro_nf.transforms._continuous.module_values import read_values, with_values
from pyro_nf.transforms._continuous.rates import ColumnRates, ModuleRates, Rates

_CONTEXT = "the context"  # no name of a parameter


class Layout(Protocol):
    """Between ``(*batch, *event)`` and the shape of a solve, for one field."""

    features_lead: bool

    def enter(self, x: Tensor) -> Tensor:
        """Values ``(*batch, *event)`` in the shape of the solve."""

    def leave(self, z: Tensor, shape: torch.Size) -> Tensor:
        """Undoes :meth:`enter`."""

    def values(self, context: Tensor | None, batch: torch.Size) -> Values:
        """All tensors that the field's evaluations read."""

    def rates(self, values: Values) -> Rates:
        """The field that reads these tensors."""


class Columns:
    """Features first, for a :class:`~pyro_nf.nn.Field`."""

    features_lead = True

    def __init__(self, field: Field) -> None:
        self._field = field

    def enter(self, x: Tensor) -> Tensor:
        return x.movedim(-1, 0).reshape(x.shape[-1], math.prod(x.shape[:-1]))

    def leave(self, z: Tensor, shape: torch.Size) -> Tensor:
        return z.reshape(len(z), *shape[:-1]).movedim(0, -1)

    def values(self, context: Tensor | None, batch: torch.Size) -> Values:
        return self._field.read(context, batch)

    def rates(self, values: Values) -> Rates:
        return ColumnRates(self._field, values)


class Rows:
    """Samples first, for any other module."""

    features_lead = False

    def __init__(self, module: nn.Module, event_dim: int) -> None:
        self._module, self._event_dim = module, event_dim

    def enter(self, x: Tensor) -> Tensor:
        cut = x.ndim - self._event_dim
        return x.reshape(math.prod(x.shape[:cut]), *x.shape[cut:])

    def leave(self, z: Tensor, shape: torch.Size) -> Tensor:
        return z.reshape(shape)

    def values(self, context: Tensor | None, batch: torch.Size) -> Values:
        values = read_values(self._module)
        if context is not None:
            rows = context.expand(*batch, context.shape[-1])
            values[_CONTEXT] = rows.reshape(math.prod(batch), context.shape[-1])
        return values

    def rates(self, values: Values) -> Rates:
        return ModuleRates(with_values(self._module, values), values.get(_CONTEXT))


def refuse_captured(owner: str, layout: Layout, values: Values, z: Tensor) -> None:
    """Raises if the field reads a tensor with a gradient that is not among its values."""
    if isinstance(layout, Columns):
        return
    rates = layout.rates({name: value.detach() for name, value in values.items()})
    z = z.detach().requires_grad_()  # as any field may that is itself a gradient by z
    if depends_beyond(rates.velocity(z.new_zeros(()), z), z):
        raise ValueError(
            f"{owner} has a field that reads a tensor with a gradient which is neither its "
            "parameter nor its context; that gradient would be lost. Register the tensor in the "
            'module, pass it as the context, or build the layer with gradient="backprop".'
        )
