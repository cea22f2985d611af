"""The wiring whose parameters are learned constants, or come from the context alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_nf.bijections import ScalarBijection
from pyro_nf.nn import MLP
from pyro_nf.nn.mlp import Activation, Residual
from pyro_nf.transforms._contract.features import features_first, features_last
from pyro_nf.transforms._wiring import Wiring


class Elementwise(Wiring):
    r"""A scalar bijection of each dimension on its own: ``y_d = f(x_d; θ_d)``.

    The parameters θ are learned constants, or a network of the context. A fresh layer is the
    bijection at zero parameters: the identity, or nearly so.

    Cost: one evaluation of the bijection in either direction; with a context one pass of the
    network for each context, however many rows share it.

    Args:
        bijection: The scalar bijection.
        input_dim: Number D of dimensions.
        context_dim: Size of the context; 0 for learned constants.
        hidden_dims: Widths of the network that reads the context.
        activation: Its activation: a name, a function or a module.
        residual: "skip" adds skip connections between its layers of equal width.

    Raises:
        TypeError: If the bijection is no instance of one.
        ValueError: If a size is out of range.

    Examples:
        >>> import torch
        >>> from pyro_nf.bijections import RationalQuadraticSpline
        >>> layer = Elementwise(RationalQuadraticSpline(bins=4), 3)
        >>> y, ladj = layer.forward_and_ladj(torch.zeros(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(
        self,
        bijection: ScalarBijection,
        input_dim: int,
        *,
        context_dim: int = 0,
        hidden_dims: Sequence[int] = (64, 64),
        activation: Activation = "relu",
        residual: Residual = "none",
    ) -> None:
        super().__init__(bijection, input_dim, context_dim)
        if context_dim:
            self.network = MLP(
                context_dim,
                bijection.param_count * input_dim,
                hidden_dims,
                activation=activation,
                residual=residual,
            )
        else:
            self.constants = nn.Parameter(torch.zeros(bijection.param_count, input_dim))

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps each dimension by the bijection."""
        x = features_first(self, x, context, "x")
        y, ladj = self.bijection.forward(x, self._params(x, context))
        return features_last(y), ladj.sum(0)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps each dimension by the bijection's inverse."""
        y = features_first(self, y, context, "y")
        x, ladj = self.bijection.inverse(y, self._params(y, context))
        return features_last(x), ladj.sum(0)

    def _params(self, x: Tensor, context: Tensor | None) -> Tensor:
        """The parameters, expanded to ``(params, *x.shape)``."""
        count, batch = self.bijection.param_count, x.shape[1:]
        if context is None:
            made, context_batch = self.constants, torch.Size()
        else:
            made, context_batch = self.network(context.movedim(-1, 0)), context.shape[:-1]
        lead = (1,) * (len(batch) - len(context_batch))
        params = made.reshape(count, self.input_dim, *lead, *context_batch)
        return params.expand(count, *x.shape)
