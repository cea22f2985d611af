"""A multilayer perceptron with a bound on its Lipschitz constant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from pyro_nf._checks import choice, hidden_sizes, non_negative_int, positive_int
from pyro_nf.nn._contractive import Contractive
from pyro_nf.nn._linear import Linear, check_context, check_inputs
from pyro_nf.nn._lipschitz_function import LipschitzFunction
from pyro_nf.nn._lipschitz_linear import LipschitzLinear
from pyro_nf.nn._lipschitz_network import LipschitzNetwork
from pyro_nf.nn._spectral import Norm


class LipschitzMLP(LipschitzNetwork):
    r"""A multilayer perceptron g with :math:`|g(x) - g(x')| \le L |x - x'|`, Euclidean norms.

    .. math::
        h_i = a(\bar W_i h_{i-1} + b_i + V_i c), \quad g = \bar W_n h_{n-1} + b_n, \quad
        \bar W_i = W_i \min(1, L^{1/n} / \lVert W_i \rVert_2)

    with activations a of constant 1: the constant of g is at most the product L of the layers'
    norms, whatever the weights W are. The context c shifts the hidden layers and is not counted:
    for each c, g is L-Lipschitz in x. A fresh network returns exactly 0 (unless
    ``zero_init=False``).

    Cost: one matrix product a layer, and one spectral norm a layer at each call, O(n³) for the
    smaller side n of its weight ("exact") or 20 products with a vector ("power").

    Args:
        input_dim: Number of features of x.
        output_dim: Number of features of the output.
        hidden_dims: Widths of the hidden layers; ``()`` for a linear map. The concatenated
            activation hands twice as many values to the next layer.
        lipschitz: The bound L > 0.
        context_dim: Length of the context's last axis; 0 for none.
        activation: "concat_lipswish", "lipswish", "tanh", "elu" or "softplus", all of constant 1.
            (The log-determinant's gradient needs their second derivative, which relu lacks.)
        norm: "exact", or "svd", takes exact spectral norms, so the bound always holds. "power"
            follows them by power iteration with a margin of 5 %; :meth:`refine` moves its vectors
            along, and second derivatives with respect to the weights hold the singular vectors
            fixed. "auto" is "exact" for each layer with at most 512 inputs or outputs.
        zero_init: Whether the last layer starts at 0.

    Raises:
        ValueError: If a size or ``lipschitz`` is out of range or an option unknown.
        TypeError: If a size is no integer.

    References:
        - Spectral normalization for generative adversarial networks (Miyato et al., 2018),
          arXiv:1802.05957.
        - Residual flows for invertible generative modeling (Chen et al., 2019), arXiv:1906.02735
          (LipSwish).
        - Invertible DenseNets with concatenated LipSwish (Perugachi-Diaz et al., 2021),
          arXiv:2102.02694.

    Examples:
        >>> import torch
        >>> network = LipschitzMLP(3, 3, hidden_dims=(16, 16), lipschitz=0.9, zero_init=False)
        >>> network(torch.randn(3, 10)).shape
        torch.Size([3, 10])
        >>> bool(network.lipschitz_bound() <= 0.9001)
        True
    """

    linears: Sequence[LipschitzLinear]

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        hidden_dims: Sequence[int] = (64, 64),
        *,
        lipschitz: float = 0.97,
        context_dim: int = 0,
        activation: Contractive = "concat_lipswish",
        norm: Norm = "auto",
        zero_init: bool = True,
    ) -> None:
        owner = "LipschitzMLP"
        hidden_dims = hidden_sizes(owner, "hidden_dims", hidden_dims)
        super().__init__(len(hidden_dims), lipschitz, activation)
        self.input_dim = positive_int(owner, "input_dim", input_dim)
        self.output_dim = positive_int(owner, "output_dim", output_dim)
        self.hidden_dims = hidden_dims
        self.context_dim = non_negative_int(owner, "context_dim", context_dim)
        choice(owner, "norm", norm, get_args(Norm))
        concatenated = activation == "concat_lipswish"
        fan_in = [input_dim, *((2 if concatenated else 1) * width for width in self.hidden_dims)]
        linears = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(
            zip(fan_in, [*self.hidden_dims, output_dim], strict=True)
        ):
            last = i == len(self.hidden_dims)
            linear = Linear(
                inputs,
                outputs,
                context_dim=0 if last and i else self.context_dim,
                zero_init=zero_init and last,
            )
            reads: Literal["values", "pairs"] = "pairs" if i and concatenated else "values"
            linears.append(LipschitzLinear(linear, self.limits[i], norm, reads))
        self.linears = cast("Sequence[LipschitzLinear]", linears)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Evaluates the network.

        Args:
            x: Shape ``(input_dim, *batch)``.
            context: Shape ``(*context_batch, context_dim)``; its batch broadcasts against that of
                x, aligned right, and is not larger.

        Returns:
            Tensor of shape ``(output_dim, *batch)``; half precision computes in float32.
        """
        check_inputs("LipschitzMLP", x, context, self.input_dim, self.context_dim)
        batch = x.shape[1:]
        function = self.read(context, batch)
        columns = x.reshape(self.input_dim, math.prod(batch))
        value = function(columns.to(function.layers[0].weight.dtype))
        return value.to(x.dtype).reshape(self.output_dim, *batch)

    def read(self, context: Tensor | None, batch: torch.Size) -> LipschitzFunction:
        """Reads and scales the weights, each once, for repeated evaluation.

        Args:
            context: Shape ``(*context_batch, context_dim)``, or None.
            batch: The batch of x, at least that of the context.

        Returns:
            The network as a function of ``(input_dim, prod(batch))``, in float32 at least.
        """
        check_context("LipschitzMLP", context, self.context_dim)
        return LipschitzFunction(
            tuple(linear.read(context, batch) for linear in self.linears),
            tuple(activation.read() for activation in self.activations),
        )
