"""What networks with a bound on their Lipschitz constant have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from pyro_nf._checks import choice, positive_float
from pyro_nf.nn._contractive import CONSTANTS, Contractive, Fixed, Swish, make_contractive
from pyro_nf.nn._spectral import NormLimit


class Limited(Protocol):
    """A linear layer whose norm is held below a limit."""

    @property
    def limit(self) -> NormLimit:
        """What holds the weight's norm."""
        ...

    def refine(self) -> None:
        """Moves the vector of a power iteration along with the weight, in place."""
        ...

    def norm(self) -> Tensor:
        """Computes the exact norm of the scaled weight, or a bound from above."""
        ...


class ColumnFunction(Protocol):
    """A network for one context: a function of columns, with Jacobians."""

    def __call__(self, x: Tensor) -> Tensor:
        """Maps ``(inputs, columns)`` to ``(outputs, columns)``, each column by itself."""
        ...

    def with_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Also returns the Jacobian of each column, ``(outputs, inputs, columns)``."""
        ...


class LipschitzNetwork(nn.Module):
    """Linear layers of limited norms with activations of known constants between (abstract).

    Args:
        hidden: Number of hidden layers.
        lipschitz: The bound L > 0.
        activation: The name of an activation.
    """

    linears: Sequence[Limited]

    def __init__(self, hidden: int, lipschitz: float, activation: Contractive) -> None:
        super().__init__()
        owner = type(self).__name__
        self.lipschitz = positive_float(owner, "lipschitz", lipschitz)
        choice(owner, "activation", activation, tuple(CONSTANTS))
        activations = nn.ModuleList(make_contractive(activation) for _ in range(hidden))
        self.activations = cast("Sequence[Swish | Fixed]", activations)
        # The activations enter unscaled: the weights that follow them make up for their constants.
        self.constant = CONSTANTS[activation]
        share = self.lipschitz ** (1 / (hidden + 1))
        self.limits = (share, *(share / self.constant,) * hidden)

    def read(self, context: Tensor | None, batch: torch.Size) -> ColumnFunction:
        """Reads and scales the weights, each once, as a function of the columns of a batch."""
        raise NotImplementedError

    def refine(self) -> None:
        """Moves the vectors of ``norm="power"`` along with the weights, in place."""
        for linear in self.linears:
            linear.refine()

    @property
    def steady(self) -> bool:
        """Whether the function depends on the parameters alone: no layer has ``norm="power"``."""
        return all(linear.limit.steady for linear in self.linears)

    @torch.no_grad()
    def lipschitz_bound(self) -> Tensor:
        """Computes a bound on the Lipschitz constant.

        Returns:
            The product of the layers' norms, exact or bounded from above, and of the activations'
            constants, a scalar without a graph. It is at most ``lipschitz``, up to rounding; with
            ``norm="power"`` it may be larger, by what the estimated norms fell short of these.
        """
        norms = torch.stack([linear.norm() for linear in self.linears])
        return norms.prod() * self.constant ** len(self.activations)

    def extra_repr(self) -> str:
        """The bound."""
        return f"lipschitz={self.lipschitz}"
