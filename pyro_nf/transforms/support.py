"""The last layer of a flow on constrained data: real space -> support."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import constraints as pyro_constraints
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_nf._checks import positive_int
from pyro_nf.transforms._contract.boundary import check_context, check_event
from pyro_nf.transforms._contract.protocol import FlowTransform
from pyro_nf.transforms._support.maps import Columns, Joint, SupportMap
from pyro_nf.transforms._support.registered import (
    find_bijection,
    tensors_in,
    unwrapped,
    with_tensors,
)


class ToSupport(FlowTransform):
    r"""The map from real space onto a support, as Pyro's ``biject_to`` defines it.

    ===========================================  =========================================
    support                                      map
    ===========================================  =========================================
    ``positive``, ``greater_than(a)``            :math:`y = a + e^x`
    ``less_than(b)``                             :math:`y = b - e^x`
    ``interval(a, b)``, ``unit_interval``        :math:`y = a + (b - a)\,\sigma(x)`
    ``simplex``                                  stick breaking, K - 1 numbers -> K
    ``ordered_vector``                           :math:`y_i = x_1 + \sum_{1<j\le i} e^{x_j}`
    ``corr_cholesky``                            n(n - 1)/2 numbers -> an n × n matrix
    ===========================================  =========================================

    Dimensions of one kind are mapped together, so a list costs as much as its kinds, not as its
    length. Bounds given as tensors are buffers. On bounded and half-bounded supports values stay
    within the support and logarithms stay finite, whatever the dtype; data that lie on a bound
    are taken for data one rounding unit inside it. The layer does not check that data lie
    within the support: the flow's distribution does, in ``log_prob``.

    Args:
        support: A constraint of a scalar (each dimension has it), of a vector or of a matrix, or a
            sequence with one scalar constraint for each dimension.
        input_dim: Size of the last dimension on the real side; None accepts any.

    Raises:
        TypeError: If ``support`` is neither a constraint nor a sequence of constraints.
        ValueError: If a support has no bijection from real space, its bounds are no interval, or
            its size does not fit ``input_dim``.

    Warning:
        In float32 a bounded support saturates near :math:`|x| = 16`: the values there are one
        number. Standardise data that crowd against a bound, or use float64.

    Examples:
        >>> import torch
        >>> from torch.distributions import constraints
        >>> from pyro_nf.transforms import ToSupport
        >>> layer = ToSupport([constraints.positive, constraints.interval(-2, 2)])
        >>> y, ladj = layer.forward_and_ladj(torch.zeros(5, 2))
        >>> y[0], ladj.shape
        (tensor([1., 0.]), torch.Size([5]))
        >>> ToSupport(constraints.simplex, 3).forward_shape((5, 3))
        torch.Size([5, 4])
    """

    def __init__(
        self, support: Constraint | Sequence[Constraint], input_dim: int | None = None
    ) -> None:
        super().__init__()
        if input_dim is not None:
            self.input_dim = positive_int("ToSupport", "input_dim", input_dim)
        self.map = self._make_map(support)
        self._check_size()

    def _make_map(self, support: Any) -> SupportMap:
        if not isinstance(support, Constraint):
            columns = _checked_columns(support)
            self._take_length(len(columns))
            return Columns(columns, event_dim=1)
        base, extra_dims = unwrapped(support)
        if type(base) is type(pyro_constraints.positive_ordered_vector):
            base = copy.copy(base)
            base.event_dim = 1  # Pyro's own says 0, that of a scalar
        if isinstance(base, (constraints.cat, constraints.stack)):
            columns = _checked_columns(_spread(base))
            self._take_length(len(columns))
            return Columns(columns, max(1, base.event_dim + extra_dims))
        find_bijection(base)
        if base.event_dim == 0:
            event_dim = max(1, extra_dims)
            _check_bounds(base, event_dim, self.input_dim)
            return Columns([base], event_dim)
        return Joint(base, extra_dims)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps real space into the support."""
        check_context(self, context)
        check_event(self, x.shape, "x")
        return self.map(x)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps the support into real space."""
        check_context(self, context)
        self._inverse_shape(y.shape)
        return self.map.inverse(y)

    @property
    def domain(self) -> Constraint:  # type: ignore[override]
        """Real space."""
        return self.map.domain

    @property
    def codomain(self) -> Constraint:  # type: ignore[override]
        """The support, with its bounds where the layer is now."""
        return self.map.codomain

    @property
    def sign(self) -> int:
        """-1 below an upper bound, where y falls as x rises; else +1."""
        return super().sign if self.map.sign is None else self.map.sign

    def _forward_shape(self, shape: torch.Size) -> torch.Size:
        return self.map.forward_shape(check_event(self, shape, "x"))

    def _inverse_shape(self, shape: torch.Size) -> torch.Size:
        try:
            result = self.map.inverse_shape(shape)
        except ValueError:
            result = None
        if result is None or (self.input_dim is not None and result[-1:] != (self.input_dim,)):
            raise ValueError(
                f"ToSupport(input_dim={self.input_dim}) onto {self.codomain!r} got y of shape "
                f"{tuple(shape)}; expected {self._expected()}."
            )
        return result

    def _expected(self) -> str:
        if self.input_dim is None:
            return "the event's dimensions last"
        event = self.map.forward_shape(self._event_shape())
        return f"shape (*batch, {', '.join(map(str, event))})"

    def _event_shape(self) -> torch.Size:
        """An event of the real side; of its dimensions only the last one's size is known."""
        return torch.Size([1] * (self.domain.event_dim - 1) + [self.input_dim or 1])

    def _take_length(self, length: int) -> None:
        """Takes the number of columns for the input's size, or raises if it is another."""
        if self.input_dim not in (None, length):
            raise ValueError(
                f"ToSupport(input_dim={self.input_dim}) got {length} constraints. Pass one for "
                "each dimension, or a single one for all."
            )
        self.input_dim = length

    def _check_size(self) -> None:
        """Raises if no event of the support is described by ``input_dim`` numbers."""
        if self.input_dim is None:
            return
        try:
            self.map.forward_shape(self._event_shape())
        except ValueError:
            raise ValueError(
                f"ToSupport(input_dim={self.input_dim}) got {self.codomain!r}, which no "
                f"{self.input_dim} numbers describe. Pass input_dim = n(n - 1)/2 for an n × n "
                "matrix: 1, 3, 6, 10, ..."
            ) from None


def _check_bounds(constraint: Constraint, event_dim: int, input_dim: int | None) -> None:
    """Raises if a bound that is a tensor does not broadcast with an event."""
    for bound in vars(constraint).values():
        if not isinstance(bound, Tensor) or bound.numel() == 1:
            continue
        if bound.ndim > event_dim or input_dim not in (None, bound.shape[-1]):
            raise ValueError(
                f"ToSupport(input_dim={input_dim}) got a bound of shape {tuple(bound.shape)}. "
                "Pass a number, or a tensor with one for each dimension."
            )


def _spread(joined: Any) -> list[Constraint]:
    """One constraint for each position of the last axis of a ``stack`` or ``cat``."""
    if joined.dim != -1:
        raise ValueError(
            f"ToSupport got a {type(joined).__name__.strip('_').lower()} of constraints along "
            f"dim={joined.dim}, which may be a batch dimension. Join them along dim=-1."
        )
    lengths = getattr(joined, "lengths", [1] * len(joined.cseq))
    return [
        _column(part, i, length)
        for part, length in zip(joined.cseq, lengths, strict=True)
        for i in range(length)
    ]


def _column(part: Constraint, i: int, length: int) -> Constraint:
    """The constraint of one of the columns that share a part of a ``cat``."""
    tensors = [bound.expand(length)[i] for bound in tensors_in(part)]
    return with_tensors(part, iter(tensors)) if tensors else part


def _checked_columns(columns: Any) -> list[Constraint]:
    """Returns the scalar constraints of the columns, or raises."""
    if isinstance(columns, str) or not isinstance(columns, Sequence):
        raise TypeError(
            f"ToSupport got a support of type {type(columns).__name__}. Pass a constraint such as "
            "constraints.positive or constraints.interval(0, 1), or a sequence of them."
        )
    if not columns:
        raise ValueError("ToSupport got no constraints. Pass one for each dimension.")
    for i, column in enumerate(columns):
        if not isinstance(column, Constraint):
            raise TypeError(
                f"ToSupport got {column!r} for dimension {i}. Pass a constraint such as "
                "constraints.positive."
            )
        find_bijection(column)
        if column.event_dim:
            raise ValueError(
                f"ToSupport got {column!r} for dimension {i}, which constrains several at once. "
                "Pass scalar constraints, or that one alone."
            )
        if any(bound.numel() != 1 for bound in tensors_in(column)):
            raise ValueError(
                f"ToSupport got {column!r} for dimension {i}, whose bounds are those of several. "
                "Pass one number as the bound of each dimension."
            )
    return list(columns)
