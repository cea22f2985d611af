"""Events in another shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_nf._checks import checked_shape
from pyro_nf.transforms._contract.boundary import check_context, check_tensor
from pyro_nf.transforms._contract.protocol import FlowTransform


class Reshape(FlowTransform):
    """Events of one shape as events of another, in the order in which they lie in memory.

    A vector as an image, say. Log-determinant 0; either direction is free, or one copy.

    Args:
        in_shape: Shape of an event on the base side.
        out_shape: Shape of an event on the data side, of as many numbers.

    Raises:
        TypeError: If a shape is no sequence of integers.
        ValueError: If a size is not positive, or the shapes hold different counts of numbers.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import Reshape
        >>> layer = Reshape((12,), (3, 2, 2))
        >>> y, ladj = layer.forward_and_ladj(torch.zeros(5, 12))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3, 2, 2]), torch.Size([5]))
        >>> layer.domain.event_dim, layer.codomain.event_dim
        (1, 3)
    """

    def __init__(self, in_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        super().__init__()
        owner = type(self).__name__
        self.in_shape = torch.Size(checked_shape(owner, "in_shape", in_shape))
        self.out_shape = torch.Size(checked_shape(owner, "out_shape", out_shape))
        before, after = math.prod(self.in_shape), math.prod(self.out_shape)
        if before != after:
            raise ValueError(
                f"{owner} got in_shape={self.in_shape} of {before} numbers and out_shape="
                f"{self.out_shape} of {after}. Pass shapes that hold equally many."
            )

    @property
    def domain(self) -> constraints.Constraint:  # type: ignore[override]
        """Real events of as many dimensions as ``in_shape`` has."""
        return constraints.independent(constraints.real, len(self.in_shape))

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        """Real events of as many dimensions as ``out_shape`` has."""
        return constraints.independent(constraints.real, len(self.out_shape))

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps base to data."""
        return self._reshaped(x, context, "x")

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to base."""
        return self._reshaped(y, context, "y")

    def _reshaped(self, x: Tensor, context: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
        check_tensor(type(self).__name__, name, x)
        check_context(self, context)
        batch, event = self._split(x.shape, name)
        return x.reshape(batch + event), x.new_zeros(batch)

    def _split(self, shape: torch.Size, name: str) -> tuple[torch.Size, torch.Size]:
        """The batch, and the event on the other side; raises if the event is not the layer's."""
        event, other = self.in_shape, self.out_shape
        if name == "y":
            event, other = other, event
        cut = len(shape) - len(event)
        if cut < 0 or shape[cut:] != event:
            expected = ", ".join(("*batch", *map(str, event)))
            raise ValueError(
                f"{self!r} got {name} of shape {tuple(shape)}; expected shape ({expected})."
            )
        return shape[:cut], other

    def _forward_shape(self, shape: torch.Size) -> torch.Size:
        batch, event = self._split(shape, "x")
        return batch + event

    def _inverse_shape(self, shape: torch.Size) -> torch.Size:
        batch, event = self._split(shape, "y")
        return batch + event

    def extra_repr(self) -> str:
        """The shapes, for ``repr``."""
        return f"{tuple(self.in_shape)}, {tuple(self.out_shape)}"


@final
class Flatten(Reshape):
    """Images as vectors, ``(C, H, W)`` -> ``(C·H·W,)``, channel by channel, row by row.

    Log-determinant 0; either direction is free, or one copy. ``Flatten(shape).inv`` makes images
    of vectors.

    Args:
        image_shape: Shape of an event on the base side, of any rank.

    Raises:
        TypeError, ValueError: If it is no sequence of positive integers.

    Examples:
        >>> from pyro_nf.transforms import Flatten
        >>> Flatten((3, 2, 2)).forward_shape((5, 3, 2, 2))
        torch.Size([5, 12])
    """

    def __init__(self, image_shape: Sequence[int]) -> None:
        shape = checked_shape("Flatten", "image_shape", image_shape)
        super().__init__(shape, (math.prod(shape),))

    def extra_repr(self) -> str:
        """The shape of an image, for ``repr``."""
        return f"{tuple(self.in_shape)}"
