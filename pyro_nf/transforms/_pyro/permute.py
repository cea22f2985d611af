"""Permutations under Pyro's name, of any dimension of an event."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_nf.transforms._contract.boundary import check_context, check_tensor
from pyro_nf.transforms._contract.protocol import FlowTransform
from pyro_nf.transforms._pyro._event import event_sizes, negative_dim
from pyro_nf.transforms.permutation import Permutation


class Permute(FlowTransform):
    """A fixed reordering along one dimension of the event, as Pyro's ``Permute``.

    ``y = x.index_select(dim, permutation)``; the log-determinant is 0 and either direction costs
    one copy. Unlike Pyro's it is a module whose permutation is a buffer, so a ``state_dict``
    carries it. :class:`Permutation` is the same for vectors alone.

    Args:
        permutation: The integers 0 … n − 1 in the wanted order.
        dim: The dimension to permute, negative: the event has ``-dim`` dimensions.
        cache_size: As Pyro's takes it; nothing needs it.

    Raises:
        TypeError, ValueError: If it is no permutation, or ``dim`` not negative.

    Examples:
        >>> import torch
        >>> from pyro_nf import transforms as T
        >>> T.Permute(torch.tensor([2, 0, 1]))(torch.tensor([10.0, 11.0, 12.0]))
        tensor([12., 10., 11.])
    """

    permutation: Tensor

    def __init__(
        self, permutation: Sequence[int] | Tensor, *, dim: int = -1, cache_size: int = 1
    ) -> None:
        super().__init__()
        del cache_size
        self.dim = negative_dim("Permute", dim)
        self.register_buffer("permutation", Permutation(permutation).permutation)
        self.input_dim = len(self.permutation) if dim == -1 else None

    @property
    def domain(self) -> constraints.Constraint:  # type: ignore[override]
        """Real events of ``-dim`` dimensions."""
        return constraints.independent(constraints.real, -self.dim)

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        """Real events of ``-dim`` dimensions."""
        return constraints.independent(constraints.real, -self.dim)

    @property
    def inv_permutation(self) -> Tensor:
        """The permutation of the inverse."""
        return self.permutation.argsort()

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps base to data."""
        return self._reorder(x, self.permutation, context, "x")

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to base."""
        return self._reorder(y, self.inv_permutation, context, "y")

    def _reorder(
        self, value: Tensor, order: Tensor, context: Tensor | None, name: str
    ) -> tuple[Tensor, Tensor]:
        check_tensor("Permute", name, value)
        self._forward_shape(value.shape)
        check_context(self, context)
        return value.index_select(self.dim, order), value.new_zeros(value.shape[: self.dim])

    def _forward_shape(self, shape: torch.Size) -> torch.Size:
        size = len(self.permutation)
        if len(shape) < -self.dim or shape[self.dim] != size:
            event = ", ".join([str(size), *("…" for _ in range(-self.dim - 1))])
            raise ValueError(
                f"Permute of {size} got a value of shape {tuple(shape)}; expected shape "
                f"(*batch, {event})."
            )
        return shape

    _inverse_shape = _forward_shape

    def extra_repr(self) -> str:
        """The size and the dimension, for ``repr``."""
        return f"{len(self.permutation)}, dim={self.dim}"


def permute(
    input_dim: int | Sequence[int],
    permutation: Sequence[int] | Tensor | None = None,
    dim: int = -1,
    *,
    seed: int = 0,
) -> Permute:
    """Creates a permutation layer, as Pyro's ``permute``.

    Either direction costs one copy; see :class:`Permute`.

    Args:
        input_dim: Number of dimensions; for ``dim < -1`` the event's ``-dim`` sizes.
        permutation: The permutation; by default one drawn from ``seed``, never the identity where
            there is another.
        dim: The dimension to permute, negative: the event has ``-dim`` dimensions.
        seed: Seed of the default's generator (the global one is left alone); :func:`iterated`
            counts it up.

    Returns:
        A layer without parameters.

    Raises:
        ValueError: If the sizes do not fit ``dim``.

    Examples:
        >>> import torch
        >>> from pyro_nf import transforms as T
        >>> T.permute((3, 2), [2, 0, 1], dim=-2)(torch.ones(5, 3, 2)).shape
        torch.Size([5, 3, 2])
    """
    event = event_sizes("permute", input_dim, dim)
    if permutation is None:
        permutation = _drawn(event[0], seed)
    if len(permutation) != event[0]:
        raise ValueError(
            f"permute got a permutation of {len(permutation)} for a dimension of size {event[0]}. "
            f"Pass every integer from 0 to {event[0] - 1} once."
        )
    return Permute(permutation, dim=dim)


def _drawn(size: int, seed: int) -> list[int]:
    """A random permutation other than the identity, if there is one."""
    generator = torch.Generator("cpu").manual_seed(seed)
    identity = list(range(size))
    while True:
        order = torch.randperm(size, generator=generator, device="cpu").tolist()
        if order != identity or size == 1:
            return order
