"""The wiring whose parameters come from the features that the layer keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from torch import Tensor

from pyro_nf._checks import choice
from pyro_nf.bijections import ScalarBijection
from pyro_nf.bijections._closed_form import Direction
from pyro_nf.nn import MLP
from pyro_nf.nn._features import Features
from pyro_nf.nn.mlp import Activation, Residual
from pyro_nf.transforms._contract.features import features_first, features_last
from pyro_nf.transforms._one_node import one_node
from pyro_nf.transforms._partition import MaskKind, Partition, coupling_mask
from pyro_nf.transforms._wiring import Wiring


class Coupling(Wiring):
    r"""A coupling layer: some features are kept, the others moved by what the kept ones say.

    .. math:: y_{kept} = x_{kept}, \qquad y_{moved} = f(x_{moved}; \theta(x_{kept}, c))

    with an elementwise bijection f and a network θ. The Jacobian is triangular, so its
    log-determinant is a sum. A fresh layer is the bijection at zero parameters.

    Cost: one pass of the network and one evaluation of the bijection, in either direction.

    Args:
        bijection: The scalar bijection f.
        input_dim: Number D of features; with D = 1 the network reads the context alone.
        mask: "half", "alternating" or "random" (see :func:`coupling_mask`), or one boolean for
            each feature, True where it is kept.
        context_dim: Size of the context c; 0 for none.
        hidden_dims: Widths of the network's hidden layers.
        activation: Its activation: a name, a function or a module.
        residual: "skip" adds skip connections between its layers of equal width.
        features: What the network reads of the kept features: "values", or, of angles, their
            "periodic" cosine and sine.

    Raises:
        TypeError: If the bijection is no instance of one.
        ValueError: If a size is out of range or the mask does not fit.

    References:
        - Density estimation using Real NVP (Dinh et al., 2017), arXiv:1605.08803.
        - NICE: non-linear independent components estimation (Dinh et al., 2015), arXiv:1410.8516.

    Examples:
        >>> import torch
        >>> from pyro_nf.bijections import Affine
        >>> layer = Coupling(Affine(), 5, mask=[True, False, True, False, False])
        >>> y, ladj = layer.forward_and_ladj(torch.zeros(7, 5))
        >>> y.shape, ladj.shape
        (torch.Size([7, 5]), torch.Size([7]))
    """

    def __init__(
        self,
        bijection: ScalarBijection,
        input_dim: int,
        *,
        mask: MaskKind | Tensor | Sequence[bool] = "half",
        context_dim: int = 0,
        hidden_dims: Sequence[int] = (64, 64),
        activation: Activation = "relu",
        residual: Residual = "none",
        features: Features = "values",
    ) -> None:
        super().__init__(bijection, input_dim, context_dim)
        if isinstance(mask, str):
            choice("Coupling", "mask", mask, get_args(MaskKind))
        chosen = coupling_mask(input_dim, mask) if isinstance(mask, str) else mask
        if not isinstance(chosen, (Tensor, Sequence)):
            raise TypeError(
                f"Coupling got mask={mask!r}. Pass 'half', 'alternating', 'random', or one "
                "boolean for each dimension, True where it is kept."
            )
        if len(chosen) != input_dim:
            raise ValueError(
                f"Coupling(input_dim={input_dim}) got a mask of length {len(chosen)}. Pass one "
                "boolean for each dimension, True where it is kept."
            )
        self.partition = Partition(chosen)
        reads_nothing = self.partition.kept_dim == 0 and context_dim == 0
        self.network = MLP(
            self.partition.kept_dim,
            bijection.param_count * self.partition.moved_dim,
            () if reads_nothing else hidden_dims,
            context_dim=context_dim,
            activation=activation,
            residual=residual,
            features=features,
        )

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Moves features by the bijection."""
        return self._map(features_first(self, x, context, "x"), context, "forward")

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Moves features by the bijection's inverse."""
        return self._map(features_first(self, y, context, "y"), context, "inverse")

    def _map(
        self, x: Tensor, context: Tensor | None, direction: Direction
    ) -> tuple[Tensor, Tensor]:
        mapped = one_node(self.network, self.bijection, self.partition, x, context, direction)
        if mapped is None:
            kept, moved = self.partition.split(x)
            params = self.network(kept, context).view(self.bijection.param_count, *moved.shape)
            run = self.bijection.forward if direction == "forward" else self.bijection.inverse
            moved, ladj = run(moved, params)
            mapped = self.partition.join(kept, moved), ladj.sum(0)
        return features_last(mapped[0]), mapped[1]
