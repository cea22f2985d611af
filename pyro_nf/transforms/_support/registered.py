"""Supports that Pyro's own ``biject_to`` maps onto: simplex, ordered vectors, matrices, ..."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints
from torch.distributions.constraints import Constraint

from pyro_nf.transforms._contract.protocol import FlowTransform
from pyro_nf.transforms._support.scalar import ALL, ScalarSupport
from pyro_nf.transforms.foreign import as_flow_transform


class Registered(ScalarSupport):
    """The map that ``biject_to`` has for a constraint of any kind: of a scalar, vector or matrix.

    Args:
        parts: One constraint, or the same one for each column. Tensors in it become buffers.

    Raises:
        ValueError: If ``biject_to`` has no bijection for it.
    """

    def __init__(self, parts: Sequence[Constraint]) -> None:
        super().__init__(parts)
        self._template = parts[0]
        transform = find_bijection(parts[0])
        for i, tensor in enumerate(tensors_in(parts[0])):
            self.register_buffer(f"tensor_{i}", tensor)
        self._fixed = None if self._buffers else as_flow_transform(transform)

    def layer(self) -> FlowTransform:
        """Torch's transform, with the tensors of the constraint where the module is now."""
        if self._fixed is None:
            return as_flow_transform(biject_to(self.constraint()))
        return self._fixed

    @property
    def sign(self) -> int:  # type: ignore[override]
        """The transform's sign."""
        return self.layer().sign

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps by the transform; the log-determinant has the transform's own shape."""
        return self.layer().forward_and_ladj(x)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Maps by the transform's inverse."""
        if isinstance(self._template, type(constraints.simplex)):
            # A composition may hold zeros, whose logarithm is infinite.
            y = y.clamp_min(torch.finfo(y.dtype).tiny)
        return self.layer().inverse_and_ladj(y)

    def constraint(self, columns: slice = ALL) -> Constraint:
        """The constraint, the same for all columns."""
        del columns
        if not self._buffers:
            return self._template
        return with_tensors(self._template, self.buffers())


def unwrapped(constraint: Constraint) -> tuple[Constraint, int]:
    """The constraint inside of ``independent``, and how many dimensions that adds to the event."""
    extra_dims = 0
    while isinstance(constraint, constraints.independent):
        extra_dims += constraint.reinterpreted_batch_ndims
        constraint = constraint.base_constraint
    return constraint, extra_dims


def find_bijection(constraint: Constraint) -> Transform:
    """Returns torch's bijection from real space onto a support, or raises by name."""
    try:
        transform = biject_to(constraint)
    except NotImplementedError:
        transform = None
    if transform is not None and transform.bijective:
        return transform
    remedy = (
        "Flows model continuous data: dequantise counts, or leave them to a discrete distribution."
        if not constraints.is_dependent(constraint) and constraint.is_discrete
        else "Pass one that torch.distributions.biject_to knows: positive, interval, simplex, "
        "ordered_vector, or corr_cholesky, which with positive scales makes a covariance."
    )
    raise ValueError(
        f"ToSupport got {constraint!r}, onto which no bijection from real space exists. {remedy}"
    )


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in a constraint, at any depth, in a fixed order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Constraint):
        yield from tensors_in(list(vars(value).values()))


def with_tensors(value: Any, tensors: Iterator[Tensor]) -> Any:
    """A copy of a constraint with its tensors replaced, in the order of :func:`tensors_in`."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, (list, tuple)):
        return type(value)(with_tensors(item, tensors) for item in value)
    if isinstance(value, Constraint):
        new = copy.copy(value)
        new.__dict__.update({k: with_tensors(v, tensors) for k, v in vars(value).items()})
        return new
    return value
