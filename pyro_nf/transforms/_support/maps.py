"""Maps of real space onto supports: column by column, or of all numbers jointly."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, groupby
from operator import is_
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_nf.transforms._contract.features import sum_rightmost
from pyro_nf.transforms._support.registered import Registered
from pyro_nf.transforms._support.scalar import HalfLine, Interval, RealLine, ScalarSupport

_KINDS: dict[type[Constraint], type[ScalarSupport]] = {
    type(constraints.real): RealLine,
    constraints.greater_than: HalfLine,
    constraints.greater_than_eq: HalfLine,
    constraints.less_than: HalfLine,
    constraints.interval: Interval,
    constraints.half_open_interval: Interval,
}


class SupportMap(nn.Module):
    """A map of real space onto a support, with log-determinants summed over the event."""

    domain: Constraint
    _known: tuple[list[Tensor], Constraint] | None = None

    @property
    def codomain(self) -> Constraint:
        """The support, with its bounds where the module is now."""
        # Torch asks for it dozens of times for each distribution, so it is made again only when
        # a bound is another tensor: after .to(), load_state_dict() or functional_call().
        bounds = self._bounds()
        if self._known is None or not all(map(is_, bounds, self._known[0])):
            self._known = bounds, self._make_codomain()
        return self._known[1]

    def _bounds(self) -> list[Tensor]:
        """The tensors in the support."""
        raise NotImplementedError

    def _make_codomain(self) -> Constraint:
        raise NotImplementedError

    @property
    def sign(self) -> int | None:
        """+1 or -1 if every column is increasing, or decreasing; None where that is undefined."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps real space into the support."""
        raise NotImplementedError

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Maps the support into real space."""
        raise NotImplementedError

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """The shape of y for x of this shape."""
        return shape

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """The shape of x for y of this shape."""
        return shape


class Columns(SupportMap):
    """A scalar support for each position of the last axis, those of one kind mapped at once.

    Args:
        columns: One constraint for each position, or a single one for all.
        event_dim: Number of the event's dimensions.
    """

    order: Tensor | None
    position: Tensor | None

    def __init__(self, columns: Sequence[Constraint], event_dim: int) -> None:
        super().__init__()
        self.event_dim = event_dim
        self.domain = constraints.independent(constraints.real, event_dim)
        kinds = list(dict.fromkeys(map(_kind, columns)))  # in order of appearance
        members: list[list[int]] = [[] for _ in kinds]
        self.runs: list[tuple[int, slice]] = []  # (group, which of its columns)
        start = 0
        for kind, run in groupby(map(_kind, columns)):
            group, length = kinds.index(kind), len(list(run))
            taken = len(members[group])
            self.runs.append((group, slice(taken, taken + length)))
            members[group] += range(start, start + length)
            start += length
        self.sizes = [len(group) for group in members]
        self.groups = nn.ModuleList(
            _scalar_support([columns[i] for i in group]) for group in members
        )
        order = torch.tensor(list(chain(*members)))
        scattered = len(self.runs) > len(kinds)
        self.register_buffer("order", order if scattered else None)
        position = order.argsort() if scattered else None
        self.register_buffer("position", position)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps real space into the support."""
        return self._map(x, "forward")

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Maps the support into real space."""
        return self._map(y, "inverse")

    def _map(self, value: Tensor, direction: str) -> tuple[Tensor, Tensor]:
        if len(self.groups) == 1:
            mapped, ladj = getattr(self._groups()[0], direction)(value)
            return mapped, sum_rightmost(ladj, self.event_dim)
        h = value.movedim(-1, 0)  # (D, *batch): columns of one kind are contiguous rows
        if self.order is not None:
            h = h.index_select(0, self.order)
        parts, ladjs = [], []
        for group, part in zip(self._groups(), h.split(self.sizes), strict=True):
            mapped, ladj = getattr(group, direction)(part.movedim(0, -1))
            parts.append(mapped.movedim(-1, 0))
            ladjs.append(sum_rightmost(ladj, self.event_dim))
        h = torch.cat(parts)
        if self.position is not None:
            h = h.index_select(0, self.position)
        return h.movedim(0, -1), sum(ladjs[1:], start=ladjs[0])

    def _bounds(self) -> list[Tensor]:
        return [bound for group in self._groups() for bound in group.bounds()]

    def _make_codomain(self) -> Constraint:
        groups = self._groups()
        if len(groups) == 1:
            return constraints.independent(groups[0].constraint(), self.event_dim)
        runs = [groups[i].constraint(columns) for i, columns in self.runs]
        lengths = [columns.stop - columns.start for _, columns in self.runs]
        # A cat of scalar constraints: torch checks one of vector constraints along a wrong axis.
        joined = constraints.cat(runs, dim=-1, lengths=lengths)
        return constraints.independent(joined, self.event_dim)

    @property
    def sign(self) -> int | None:
        """The sign that all columns share."""
        signs = {group.sign for group in self._groups()}
        return signs.pop() if len(signs) == 1 else None

    def _groups(self) -> list[ScalarSupport]:
        return [cast("ScalarSupport", group) for group in self.groups]


class Joint(SupportMap):
    """A support whose numbers depend on one another: a simplex, an ordered vector, a matrix.

    Args:
        constraint: The support of a vector or matrix.
        extra_dims: How many dimensions of independent ones the event has to its left.
    """

    def __init__(self, constraint: Constraint, extra_dims: int) -> None:
        super().__init__()
        self.registered = Registered([constraint])
        self.extra_dims = extra_dims
        self.domain = _independent(self.registered.layer().domain, extra_dims)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps real space into the support."""
        y, ladj = self.registered(x)
        return y, sum_rightmost(ladj, self.extra_dims)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Maps the support into real space."""
        x, ladj = self.registered.inverse(y)
        return x, sum_rightmost(ladj, self.extra_dims)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """The shape of y for x of this shape."""
        return self.registered.layer().forward_shape(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """The shape of x for y of this shape."""
        return self.registered.layer().inverse_shape(shape)

    def _bounds(self) -> list[Tensor]:
        return self.registered.bounds()

    def _make_codomain(self) -> Constraint:
        return _independent(self.registered.constraint(), self.extra_dims)

    @property
    def sign(self) -> int | None:
        """None."""
        return None


def _independent(constraint: Constraint, count: int) -> Constraint:
    return constraints.independent(constraint, count) if count else constraint


def _scalar_support(parts: Sequence[Constraint]) -> ScalarSupport:
    return _KINDS.get(type(parts[0]), Registered)(parts)


def _kind(constraint: Constraint) -> object:
    """What columns must have in common to be mapped together."""
    return type(constraint) if type(constraint) in _KINDS else id(constraint)
