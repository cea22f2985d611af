"""The inverse of a layer, as a layer."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_nf.transforms._contract.boundary import refuse_context
from pyro_nf.transforms._contract.protocol import FlowTransform


class Inverse(FlowTransform):
    """The inverse of a layer, with the layer's own parameters.

    Usually made by ``layer.inv``; ``layer.inv.inv is layer``. Unlike torch's inverse it is a
    module: put in a flow, a model or a guide, its parameters are found and trained. It shares the
    layer's remembered pass.

    Args:
        layer: The layer to invert.

    Raises:
        TypeError: If ``layer`` is none.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import Permutation
        >>> layer = Permutation([2, 0, 1])
        >>> layer.inv(layer(torch.arange(3.0)))
        tensor([0., 1., 2.])
    """

    def __init__(self, layer: FlowTransform) -> None:
        super().__init__()
        if not isinstance(layer, FlowTransform):
            raise TypeError(
                f"Inverse got a layer of type {type(layer).__name__}. Pass a layer of "
                "pyro_nf.transforms; a transform of torch's or Pyro's has .inv."
            )
        self.layer = layer
        self.input_dim = layer.input_dim
        self.context_dim = layer.context_dim

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps by the layer's inverse."""
        return self.layer.inverse_and_ladj(x, context)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps by the layer."""
        return self.layer.forward_and_ladj(y, context)

    @property
    def domain(self) -> constraints.Constraint:  # type: ignore[override]
        """The layer's codomain."""
        return self.layer.codomain

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        """The layer's domain."""
        return self.layer.domain

    @property
    def ladj_direction(self) -> Literal["forward", "inverse"]:  # type: ignore[override]
        """The direction in which the log-determinant is cheap."""
        return "inverse" if self.layer.ladj_direction == "forward" else "forward"

    @property
    def sign(self) -> int:
        """The layer's sign."""
        return self.layer.sign

    @property
    def inv(self) -> FlowTransform:
        """The layer."""
        return self.layer

    def __call__(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps by the layer's inverse."""
        refuse_context(self, context)
        return self.layer._inv_call(x)

    def _inv_call(self, y: Tensor) -> Tensor:
        return self.layer(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Computes ``log|det dy/dx|`` of the pair, through the layer."""
        return -self.layer.log_abs_det_jacobian(y, x)

    def clear_cache(self) -> None:
        """Forgets the pass that the layer remembers."""
        self.layer.clear_cache()

    def _forward_shape(self, shape: torch.Size) -> torch.Size:
        return self.layer._inverse_shape(shape)

    def _inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self.layer._forward_shape(shape)
