"""The wiring whose parameters come from the coordinates before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from pyro_nf._checks import choice
from pyro_nf.bijections import ScalarBijection
from pyro_nf.nn import MaskedMLP
from pyro_nf.nn._adjacency import Adjacency
from pyro_nf.nn._features import Features
from pyro_nf.nn.masked import permutation
from pyro_nf.nn.mlp import Activation, Residual
from pyro_nf.transforms._contract.features import features_first, features_last
from pyro_nf.transforms._one_node import one_node
from pyro_nf.transforms._sweep.sweep import sweep
from pyro_nf.transforms._wiring import Wiring


class Autoregressive(Wiring):
    r"""An autoregressive layer: each dimension is moved by what those before it say.

    The masked network reads one side of the layer; ``fast`` names the direction in which that side
    is given, and so all dimensions are mapped at once. With u the side it reads and v the other,

    .. math:: v_d = f(u_d; \theta_d(u_{<d}, c)).

    ``fast="log_prob"`` reads the data, u = y (MAF); ``fast="sample"`` reads the base draw, u = x
    (IAF). The two are each other's inverse. The bijection f runs forward in the fast direction.

    Cost: one pass of the network in the fast direction; D sequential steps in the slow one, with
    about one pass of arithmetic in all, since step d computes only the hidden units that it adds.
    The slow direction's gradient is one reverse sweep.

    Args:
        bijection: The scalar bijection f.
        input_dim: Number D of dimensions.
        fast: The fast direction, "log_prob" or "sample".
        hidden_dims: Widths of the masked network's hidden layers, any sizes.
        order: The order of the chain: ``order[i]`` is the dimension at position i. Natural by
            default, or one that follows the adjacency; kept with the state.
        adjacency: Boolean matrix (D, D), a directed acyclic graph: entry (i, j) says whether the
            parameters of dimension i may depend on dimension j. The diagonal is ignored. The
            Jacobian dv/du of the fast direction is zero wherever the matrix is, its diagonal
            apart; that of the slow direction wherever j is no ancestor of i. By default each
            dimension may depend on all before it; kept with the state.
        context_dim: Size of the context c; 0 for none.
        activation: The network's activation: a name, a function or a module.
        residual: "skip" adds skip connections between its layers of equal width.
        features: What the network reads of u: its "values", or, of angles, their "periodic"
            cosine and sine.

    Raises:
        TypeError: If the bijection is no instance of one.
        ValueError: If an option is unknown, a size out of range, ``order`` no permutation, or the
            adjacency has a cycle (which is printed) or disagrees with ``order``.

    References:
        - Masked autoregressive flow for density estimation (Papamakarios et al., 2017),
          arXiv:1705.07057.
        - Improving variational inference with inverse autoregressive flow (Kingma et al., 2016),
          arXiv:1606.04934.
        - Graphical normalizing flows (Wehenkel & Louppe, 2020), arXiv:2006.02548.

    Examples:
        >>> import torch
        >>> from pyro_nf.bijections import Affine
        >>> layer = Autoregressive(Affine(), 5, fast="log_prob", order=[4, 3, 2, 1, 0])
        >>> x, ladj = layer.inverse_and_ladj(torch.zeros(7, 5))
        >>> x.shape, ladj.shape
        (torch.Size([7, 5]), torch.Size([7]))
    """

    def __init__(
        self,
        bijection: ScalarBijection,
        input_dim: int,
        *,
        fast: Literal["log_prob", "sample"],
        hidden_dims: Sequence[int] = (64, 64),
        order: Sequence[int] | Tensor | None = None,
        adjacency: Adjacency | None = None,
        context_dim: int = 0,
        activation: Activation = "relu",
        residual: Residual = "none",
        features: Features = "values",
    ) -> None:
        super().__init__(bijection, input_dim, context_dim)
        self.fast: Literal["log_prob", "sample"] = choice(
            "Autoregressive", "fast", fast, ("log_prob", "sample")
        )
        if order is not None:
            order = permutation(order, self.input_dim, owner="Autoregressive")
        self.network = MaskedMLP(
            input_dim,
            bijection.param_count,
            hidden_dims,
            order=order,
            adjacency=adjacency,
            context_dim=context_dim,
            activation=activation,
            residual=residual,
            features=features,
        )

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps base to data: one pass if ``fast="sample"``, else D steps."""
        return (self._read if self.fast == "sample" else self._solve)(x, context, "x")

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to base: one pass if ``fast="log_prob"``, else D steps."""
        return (self._read if self.fast == "log_prob" else self._solve)(y, context, "y")

    def _read(self, u: Tensor, context: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
        """The fast direction: the network reads what is given."""
        u = features_first(self, u, context, name)
        mapped = one_node(self.network, self.bijection, None, u, context, "forward")
        if mapped is None:
            params = self.network(u, context).view(self.bijection.param_count, *u.shape)
            v, ladj = self.bijection.forward(u, params)
            mapped = v, ladj.sum(0)
        return features_last(mapped[0]), mapped[1]

    def _solve(self, v: Tensor, context: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
        """The slow direction: what the network reads is found one dimension at a time."""
        v = features_first(self, v, context, name)
        u, ladj = sweep(self.network, self.bijection, v, context)
        return features_last(u), ladj.sum(0)

    @property
    def ladj_direction(self) -> Literal["forward", "inverse"]:  # type: ignore[override]
        """The fast direction."""
        return "forward" if self.fast == "sample" else "inverse"

    def extra_repr(self) -> str:
        """The bijection, the sizes and the fast direction."""
        return f"{super().extra_repr()}, fast={self.fast!r}"
