"""Coupling layers under Pyro's names: a split at an index, and a network that may be a user's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_nf._checks import choice, non_negative_int
from pyro_nf.bijections import ScalarBijection
from pyro_nf.nn import MLP
from pyro_nf.nn.mlp import Activation
from pyro_nf.transforms._contract.boundary import check_context, check_tensor
from pyro_nf.transforms._contract.features import features_last, to_front
from pyro_nf.transforms._contract.protocol import FlowTransform
from pyro_nf.transforms._pyro._event import event_sizes, negative_dim
from pyro_nf.transforms._pyro.networks import (
    Network,
    check_network,
    check_reads_context,
    elementwise_params,
)

Kept = Literal["lower", "upper"]


class SplitCoupling(FlowTransform):
    """What Pyro's couplings share: a split of the event at an index of one dimension.

    The event's last ``-dim`` dimensions are split along the first of them. One part is kept, and
    read by the network; the other is moved by the bijection.

    Args:
        bijection: The scalar bijection.
        split_dim: The index of the split: the lower part has this size.
        hypernet: The network: a ``pyro_nf.nn.MLP``, or a callable that maps the flattened kept
            part ``(*batch, K)``, and ``context=`` where it takes one, to a tensor or a tuple of
            tensors ``(*batch, M · p)`` for the M moved elements.
        dim: The dimension to split, negative: the event has ``-dim`` dimensions.
        event_shape: The event's sizes, where they are known.
        context_dim: Size of the context; None for what the network says.
        kept: The part that is kept, "lower" or "upper".
        lower: A layer that moves the kept part on its own; None leaves it as it is.

    Raises:
        TypeError: If the network is no callable.
        ValueError: If ``dim`` is not negative, or the split leaves nothing to move.
    """

    needs_context: ClassVar[bool] = False

    def __init__(
        self,
        bijection: ScalarBijection,
        split_dim: int,
        hypernet: Network,
        *,
        dim: int = -1,
        event_shape: Sequence[int] | None = None,
        context_dim: int | None = None,
        kept: Kept = "lower",
        lower: FlowTransform | None = None,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        check_network(owner, hypernet)
        self.bijection = bijection
        self.split_dim = non_negative_int(owner, "split_dim", split_dim)
        self.nn = hypernet
        self.dim = negative_dim(owner, dim)
        self.event_shape = None if event_shape is None else tuple(event_shape)
        self.kept: Kept = choice(owner, "kept", kept, ("lower", "upper"))
        self.lower_spline = lower
        if self.event_shape is not None:
            self.input_dim = self.event_shape[-1]
            if self._moved_size(self.event_shape[0]) < 1:
                raise ValueError(
                    f"{owner} got split_dim={split_dim} for an event of shape "
                    f"{self.event_shape}, which leaves nothing to move. Pass split_dim below "
                    f"{self.event_shape[0]}."
                )
        made = int(getattr(hypernet, "context_dim", 0)) if context_dim is None else context_dim
        self.context_dim = non_negative_int(owner, "context_dim", made)
        if self.needs_context:
            check_reads_context(owner, self.context_dim)
        self.reusable = isinstance(hypernet, nn.Module)

    @property
    def domain(self) -> constraints.Constraint:  # type: ignore[override]
        """Real events of ``-dim`` dimensions."""
        return constraints.independent(constraints.real, -self.dim)

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        """Real events of ``-dim`` dimensions."""
        return constraints.independent(constraints.real, -self.dim)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps base to data."""
        return self._couple(x, context, "x")

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to base."""
        return self._couple(y, context, "y")

    def _couple(
        self, value: Tensor, context: Tensor | None, name: Literal["x", "y"]
    ) -> tuple[Tensor, Tensor]:
        event = self._checked_event(value, name)
        check_context(self, context)
        rows = to_front(self, value.flatten(self.dim), context, name)  # (features, *batch)
        split = self.split_dim * math.prod(event[1:])
        lower, upper = rows[:split], rows[split:]
        kept, moved = (lower, upper) if self.kept == "lower" else (upper, lower)

        kept_ladj: Tensor | float = 0.0
        read, out = kept, kept  # the network reads the base side of what is kept
        if self.lower_spline is not None:
            given, c = features_last(kept), context if self.lower_spline.context_dim else None
            if name == "x":
                result, kept_ladj = self.lower_spline.forward_and_ladj(given, c)
            else:
                result, kept_ladj = self.lower_spline.inverse_and_ladj(given, c)
            out = result.movedim(-1, 0)
            read = kept if name == "x" else out

        params = elementwise_params(
            self.nn,
            read,
            context,
            size=len(moved),
            count=self.bijection.param_count,
            owner=type(self).__name__,
        )
        run = self.bijection.forward if name == "x" else self.bijection.inverse
        moved, ladj = run(moved, params)
        joined = torch.cat([out, moved] if self.kept == "lower" else [moved, out])
        return features_last(joined).unflatten(-1, event), ladj.sum(0) + kept_ladj

    def _checked_event(self, value: Tensor, name: str) -> torch.Size:
        """Returns the event's sizes, or raises."""
        owner, rank = type(self).__name__, -self.dim
        check_tensor(owner, name, value)
        self._forward_shape(value.shape)
        event = value.shape[value.ndim - rank :]
        if self._moved_size(event[0]) < 1:
            raise ValueError(
                f"{owner} got {name} with an event of shape {tuple(event)} for "
                f"split_dim={self.split_dim} and kept={self.kept!r}, which leaves nothing to "
                "move. Pass a larger event, or build the layer with another split_dim."
            )
        return event

    def _forward_shape(self, shape: torch.Size) -> torch.Size:
        rank = -self.dim
        known = self.event_shape
        if len(shape) < rank or (known is not None and tuple(shape[-rank:]) != known):
            event = ("*batch", *(known or (f"event of {rank} dimensions",)))
            raise ValueError(
                f"{type(self).__name__} got a value of shape {tuple(shape)}; expected shape "
                f"({', '.join(map(str, event))})."
            )
        return shape

    _inverse_shape = _forward_shape

    def _moved_size(self, size: int) -> int:
        return size - self.split_dim if self.kept == "lower" else self.split_dim

    @property
    def sign(self) -> int:
        """The bijection's sign, for one dimension."""
        return self.bijection.sign if self.event_shape == (1,) else super().sign

    def extra_repr(self) -> str:
        """The bijection, the split and the sizes, for ``repr``."""
        event = "" if self.event_shape is None else f", event_shape={self.event_shape}"
        context = f", context_dim={self.context_dim}" if self.context_dim else ""
        return (
            f"{self.bijection}, split_dim={self.split_dim}, kept={self.kept!r}, dim={self.dim}"
            f"{event}{context}"
        )


def dense_network(
    event_shape: Sequence[int],
    split_dim: int,
    bijection: ScalarBijection,
    kept: Kept,
    *,
    hidden_dims: Sequence[int],
    context_dim: int,
    nonlinearity: Activation,
) -> MLP:
    """Creates the network of a coupling of an event of known sizes."""
    rest = math.prod(event_shape[1:])
    lower, upper = split_dim * rest, (event_shape[0] - split_dim) * rest
    kept_dim, moved_dim = (lower, upper) if kept == "lower" else (upper, lower)
    reads_nothing = kept_dim == 0 and context_dim == 0
    return MLP(
        kept_dim,
        bijection.param_count * moved_dim,
        () if reads_nothing else hidden_dims,
        context_dim=context_dim,
        activation=nonlinearity,
    )


def event_of(
    owner: str, input_dim: int | Sequence[int], split_dim: int | None, dim: int
) -> tuple[tuple[int, ...], int]:
    """Returns the event's sizes and the index of its split, by default the middle, or raises."""
    event = event_sizes(owner, input_dim, dim)
    split = event[0] // 2 if split_dim is None else non_negative_int(owner, "split_dim", split_dim)
    if split >= event[0]:
        raise ValueError(
            f"{owner} got split_dim={split} for a dimension of size {event[0]}, which leaves "
            f"nothing to move. Pass split_dim below {event[0]}."
        )
    return event, split


def kept_part(parity: int, split_dim: int) -> Kept:
    """The part that a layer of this parity in a chain keeps; an empty one is always kept."""
    if parity not in (0, 1):
        raise ValueError(f"A coupling got parity={parity}. Pass 0 or 1.")
    return "upper" if parity and split_dim else "lower"
