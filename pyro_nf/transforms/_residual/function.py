"""What a residual layer asks of the function that it adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor

Columns = Callable[[Tensor], Tensor]
"""A function ``(D, columns) -> (D, columns)`` that maps each column by itself."""


class Contraction(Protocol):
    """A function of columns with a Lipschitz constant below 1 and Jacobians."""

    def __call__(self, x: Tensor) -> Tensor:
        """Maps ``(D, columns)`` to ``(D, columns)``, each column by itself."""
        ...

    def with_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Also returns the Jacobian of each column, ``(D, D, columns)``."""
        ...


def linearized(g: Columns, x: Tensor) -> tuple[Tensor, Columns]:
    """Evaluates g at x and returns g(x) with the map w -> Jᵀ w, differentiable."""
    value, pullback = cast("tuple[Tensor, Any]", torch.func.vjp(g, x))
    return value, lambda w: cast("Tensor", pullback(w)[0])
