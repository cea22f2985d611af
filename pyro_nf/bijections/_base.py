"""The form of a scalar bijection: pure elementwise maths whose parameters lead."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.distributions import constraints


class ScalarBijection:
    """An elementwise bijection of the real line: a value handed to a wiring.

    It knows nothing of batches, features or networks. ``x`` has any shape ``S``; the parameters
    have shape ``(param_count, *S)``: they lead, so that a softmax or a sum over them runs over
    contiguous rows. Zero parameters give the identity, or nearly so.

    Subclasses are frozen dataclasses: their fields are the options that are not learned.

    Attributes:
        sign: +1 for an increasing map, -1 for a decreasing one.
        domain: The set that is mapped onto itself: the real line, or an interval of angles.
    """

    sign: ClassVar[int] = 1
    domain: ClassVar[constraints.Constraint] = constraints.real

    @property
    def param_count(self) -> int:
        """Number of parameters for each element."""
        raise NotImplementedError

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``y`` and returns ``(y, log|dy/dx|)``, both of the shape of ``x``."""
        raise NotImplementedError

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``x`` and returns ``(x, log|dx/dy|)``, both of the shape of ``y``."""
        raise NotImplementedError

    def inverse_at(self, x: Tensor, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Is ``inverse(y, params)`` where x, its value, is known: some inverses search for it."""
        del x
        return self.inverse(y, params)
