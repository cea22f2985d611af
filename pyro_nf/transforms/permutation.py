"""Fixed permutations of the dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_nf._checks import positive_int
from pyro_nf.transforms._contract.features import features_first, features_last
from pyro_nf.transforms._contract.protocol import FlowTransform


class Permutation(FlowTransform):
    r"""A fixed reordering of the dimensions, :math:`y_i = x_{\pi(i)}`, with log-determinant 0.

    The permutation is a buffer: a ``state_dict`` carries it, and the inverse is derived from it.
    Either direction costs one copy of the rows.

    Args:
        permutation: :math:`\pi`, the integers 0 … D−1 in the wanted order.

    Warning:
        Pyro's parameter store keeps no buffers, so it drops the permutation: save the
        ``state_dict``.

    Raises:
        TypeError: If ``permutation`` is no sequence or one-dimensional tensor of integers.
        ValueError: If it is empty or does not hold each of 0 … D−1 once.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import Permutation
        >>> layer = Permutation([2, 0, 1])
        >>> y, ladj = layer.forward_and_ladj(torch.tensor([[10.0, 11.0, 12.0]]))
        >>> y, ladj
        (tensor([[12., 10., 11.]]), tensor([0.]))
        >>> Permutation.reverse(3)(torch.arange(3.0))
        tensor([2., 1., 0.])
    """

    permutation: Tensor

    def __init__(self, permutation: Sequence[int] | Tensor) -> None:
        super().__init__()
        order = _checked_order(permutation)
        self.input_dim = len(order)
        self.register_buffer("permutation", torch.tensor(order, dtype=torch.long))

    @classmethod
    def random(cls, input_dim: int, *, seed: int = 0) -> Permutation:
        """Creates a permutation drawn uniformly by a generator of its own.

        Args:
            input_dim: Number of dimensions D.
            seed: The generator's seed; the global generator is left alone.
        """
        positive_int("Permutation.random", "input_dim", input_dim)
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.randperm(input_dim, generator=generator, device="cpu"))

    @classmethod
    def reverse(cls, input_dim: int) -> Permutation:
        """Creates the reversal of ``input_dim`` dimensions."""
        positive_int("Permutation.reverse", "input_dim", input_dim)
        return cls(range(input_dim - 1, -1, -1))

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps base to data."""
        h = features_first(self, x, context, "x")  # (D, *batch)
        return features_last(h.index_select(0, self.permutation)), x.new_zeros(x.shape[:-1])

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to base."""
        h = features_first(self, y, context, "y")  # (D, *batch)
        # Derived at each pass, so that a permutation that was loaded or assigned counts at once.
        restored = h.index_select(0, self.permutation.argsort())
        return features_last(restored), y.new_zeros(y.shape[:-1])

    @property
    def sign(self) -> int:
        """+1 for one dimension, where the layer is the identity."""
        return 1 if self.input_dim == 1 else super().sign


def _checked_order(permutation: Any) -> list[int]:
    """Returns the permutation as a list, or raises."""
    order = permutation.tolist() if isinstance(permutation, Tensor) else permutation
    if (
        isinstance(order, str)
        or not isinstance(order, Sequence)
        or any(isinstance(i, bool) or not isinstance(i, int) for i in order)
    ):
        raise TypeError(
            f"Permutation got permutation={permutation!r}. Pass a sequence of integers such as "
            "[2, 0, 1]."
        )
    if not order or sorted(order) != list(range(len(order))):
        raise ValueError(
            f"Permutation got permutation={list(order)}, which is no reordering of 0 … D-1. Pass "
            "each index once, such as [2, 0, 1]."
        )
    return list(order)
