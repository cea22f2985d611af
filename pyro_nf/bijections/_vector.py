"""The form of a vector bijection: pure maths of all dimensions jointly."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

Params = Mapping[str, Tensor]
"""Parameters by name, each ``(*batch, *shape)`` with one batch for all."""


class VectorBijection:
    """A bijection of ℝᴰ that mixes its dimensions: a value handed to a wiring.

    It knows nothing of networks. Its parameters have names and shapes, so that a layer's
    ``state_dict`` is readable and each can be given a prior of its own. A *batch* counts sets of
    parameters, and the *points* are those that share a set: x has shape ``(*batch, D, points)``,
    one point in each column, and a parameter of shape ``s`` arrives as ``(*batch, *s)``. Learned
    constants have batch ``()``: every map is then a product of plain matrices with all points.

    Subclasses are frozen dataclasses: their fields are the options that are not learned.
    """

    @property
    def sign(self) -> int:
        """+1 or -1 for an increasing or decreasing map where D = 1."""
        return 1

    def initial(self, input_dim: int) -> dict[str, Tensor]:
        """Creates the parameters of a fresh map of ``input_dim`` dimensions, near the identity."""
        raise NotImplementedError

    def fixed(self, input_dim: int) -> dict[str, Tensor]:
        """Creates what is part of the map but not learned, such as a permutation."""
        del input_dim
        return {}

    def forward(self, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``y`` and computes ``log|det dy/dx|``.

        Args:
            x: Shape ``(*batch, D, points)``.
            params: What :meth:`initial` and :meth:`fixed` name; the batch of the parameters
                broadcasts with that of x, what is fixed has none.

        Returns:
            ``y`` of the shape of ``x``, and the log-determinant, which broadcasts to
            ``(*batch, points)``.
        """
        raise NotImplementedError

    def inverse(self, y: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``x`` and computes ``log|det dx/dy|``, as :meth:`forward` does."""
        raise NotImplementedError
