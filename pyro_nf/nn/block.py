"""The block network of a BNAF: increasing in its own input, free in those before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pyro_nf._checks import choice, hidden_sizes, non_negative_int, positive_int
from pyro_nf._precision import widen
from pyro_nf.nn._block_linear import BlockLinear
from pyro_nf.nn._block_values import BlockResidual, BlockValues, evaluate
from pyro_nf.nn._linear import check_inputs
from pyro_nf.nn._monotone import MONOTONE, MonotoneName


class BlockMLP(nn.Module):
    r"""A network from ℝᴰ to ℝᴰ: output d increases with input d and may read those before.

    .. math::
        h_0 = u, \quad h_i = a(W_i h_{i-1} + b_i + V_i c), \quad f = W h + b + V c

    Every layer has its units in D blocks, and W is block lower triangular with positive diagonal
    blocks, so that the Jacobian is triangular with a positive diagonal. The output is

    - ``residual=None``: :math:`v = f`, whose range is bounded unless the activation's is not;
    - ``residual="normal"``: :math:`v = u + f`, onto ℝ, with slopes above 1;
    - ``residual="gated"``: :math:`v = \sigma u + (1 - \sigma) f` with a learned gate
      :math:`\sigma \in (0, 1)` for each dimension, onto ℝ.

    A fresh network is near the identity on standardised inputs, within some 0.3.

    Cost: one matrix product a layer, and one small one for each diagonal block. The slopes'
    products carry a logarithmic scale, so that log ∂v_d/∂u_d is exact far into saturation.

    Args:
        input_dim: Number D of inputs.
        hidden_factors: Units that each hidden layer has for each input; ``()`` for a linear map.
        activation: "ELU", "LeakyReLU", "sigmoid" or "tanh".
        residual: None, "normal" or "gated".
        context_dim: Size of the context c; 0 for none.

    Raises:
        TypeError, ValueError: If a size is out of range or an option unknown.

    References:
        - Block neural autoregressive flow (De Cao et al., 2019), arXiv:1904.04676.
        - Weight normalization (Salimans & Kingma, 2016), arXiv:1602.07868.

    Examples:
        >>> import torch
        >>> network = BlockMLP(3, hidden_factors=(4,), context_dim=2)
        >>> v, log_slope = network(torch.randn(3, 10, 5), torch.randn(5, 2))
        >>> v.shape, log_slope.shape
        (torch.Size([3, 10, 5]), torch.Size([3, 10, 5]))
    """

    gate: Tensor | None

    def __init__(
        self,
        input_dim: int,
        hidden_factors: Sequence[int] = (8, 8),
        *,
        activation: MonotoneName = "tanh",
        residual: BlockResidual = "gated",
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        self.input_dim = positive_int("BlockMLP", "input_dim", input_dim)
        self.hidden_factors = hidden_sizes("BlockMLP", "hidden_factors", hidden_factors)
        self.activation: MonotoneName = choice(
            "BlockMLP", "activation", activation, tuple(MONOTONE)
        )
        self.residual: BlockResidual = choice(
            "BlockMLP", "residual", residual, (None, "normal", "gated")
        )
        self.context_dim = non_negative_int("BlockMLP", "context_dim", context_dim)
        units = (1, *self.hidden_factors, 1)
        self.layers = nn.ModuleList(
            BlockLinear(self.input_dim, a, b, context_dim=self.context_dim)
            for a, b in zip(units[:-1], units[1:], strict=True)
        )
        gate = nn.Parameter(torch.zeros(self.input_dim)) if residual == "gated" else None
        self.register_parameter("gate", gate)
        self._start_near_identity()

    @property
    def _linears(self) -> list[BlockLinear]:
        return cast("list[BlockLinear]", list(self.layers))

    @torch.no_grad()
    def _start_near_identity(self) -> None:
        """Spreads the units over the bulk of standardised inputs, and makes f rise as u there.

        Along u_d, with all other inputs 0, f then has the mean slope 1 over [-2, 2] and f(0) = 0.
        """
        if not self.hidden_factors:
            return
        first, *others, last = self._linears
        nn.init.uniform_(first.bias, -2.5, 2.5)
        for layer in others:
            nn.init.uniform_(layer.bias, -1, 1)
        grid = torch.linspace(-2, 2, 33).expand(self.input_dim, -1)
        f = self.values(torch.Size([33]))._replace(residual=None, gate=None)
        log_slope = evaluate(f, grid)[1].exp().mean(1).log()
        middle = evaluate(f, torch.zeros_like(grid[:, :1]))[0].squeeze(1)
        last.rescale(-log_slope, -middle * torch.exp(-log_slope))

    def forward(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Evaluates the network and the diagonal of its Jacobian.

        Args:
            u: Shape ``(input_dim, *batch)``.
            context: Shape ``(*context_batch, context_dim)``; its batch broadcasts against that of
                u, aligned right, and is not larger.

        Returns:
            v and log ∂v_d/∂u_d, both of the shape and the dtype of u.
        """
        check_inputs("BlockMLP", u, context, self.input_dim, self.context_dim)
        values, rows = self.values(u.shape[1:], context), flat_rows(u)
        v, log_slope = evaluate(values, rows)
        return v.reshape(u.shape).to(u.dtype), log_slope.reshape(u.shape).to(u.dtype)

    def values(self, batch: torch.Size, context: Tensor | None = None) -> BlockValues:
        """Reads all parameters, each once, for rows of a batch shape."""
        gate = self.gate
        return BlockValues(
            MONOTONE[self.activation],
            self.residual,
            [layer.values(context, batch) for layer in self._linears],
            None if gate is None else widen(gate).unsqueeze(1),
        )


def flat_rows(u: Tensor) -> Tensor:
    """Flattens ``(D, *batch)`` to ``(D, N)``; half precision becomes float32."""
    return widen(u.reshape(u.shape[0], math.prod(u.shape[1:])))
