"""Invertible residual layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from pyro_nf._checks import positive_int
from pyro_nf.bijections import Root
from pyro_nf.nn._contractive import Contractive
from pyro_nf.nn._spectral import Norm
from pyro_nf.nn.lipschitz import LipschitzMLP
from pyro_nf.transforms._contract.features import features_first, features_last
from pyro_nf.transforms._residual.layer import Fast, ResidualLayer, contraction_bound
from pyro_nf.transforms._residual.log_det import LogDet
from pyro_nf.transforms._residual.options import LogDetSeries


@final
class InvertibleResidual(ResidualLayer):
    r"""A residual layer that is invertible because its network is a contraction.

    .. math:: v = u + g(u, c), \qquad |g(u, c) - g(u', c)| \le L |u - u'|, \quad L < 1

    for every context c. The side u is the data with ``fast="log_prob"`` (data -> base is the
    closed form) and the base draw with ``fast="sample"``. Every Jacobian is unrestricted but for
    its size: all dimensions interact, and a layer stretches between 1 - L and 1 + L times.

    The slow direction is the fixed point of u = v - g(u), by Anderson's acceleration (5 to 30
    evaluations of g), with derivatives by the implicit function theorem.

    The log-determinant of I + J, J the Jacobian of g, is

    - "exact": J in closed form, D tangents through the network, and a factorisation: O(D) network
      passes and O(D³) a row;
    - "series": the power series, truncated (a bias that shrinks as L to the number of terms) and
      with random signs for its traces. In evaluation the signs are fixed and the same for all
      rows: the result is a deterministic function of the row;
    - "roulette": the series stopped at random, without bias. Noisy: several nats a row are
      common. It draws from torch's global generator, in evaluation too;
    - "auto": exact for D ≤ 64, in evaluation for D ≤ 512; beyond, the roulette in training and
      the series in evaluation.

    While training, series and roulette take the Neumann estimate of the gradient, whose memory
    does not grow with the terms and which has no second derivatives.

    Warning:
        ``norm="power"`` moves its buffers in training, data -> base, with gradients on. Pyro's
        parameter store does not keep buffers; a few more steps, or ``refine`` on the network,
        restore them.

    Args:
        input_dim: Number D of dimensions.
        fast: The direction in closed form, "log_prob" or "sample".
        hidden_dims: Widths of the network's hidden layers.
        lipschitz: The bound L, inside (0, 1).
        context_dim: Size of the context c; 0 for none.
        activation: As for :class:`~pyro_nf.nn.LipschitzMLP`.
        norm: As for :class:`~pyro_nf.nn.LipschitzMLP`.
        log_det: How the log-determinant is computed, see above.
        series: The options of the estimates.
        root: Budget and tolerance of the fixed point.

    Raises:
        TypeError: If an option is of another type.
        ValueError: If a size is out of range or an option unknown.
        ConvergenceError: In the slow direction, if a row is not found within the budget.

    References:
        - Invertible residual networks (Behrmann et al., 2019), arXiv:1811.00995.
        - Residual flows for invertible generative modeling (Chen et al., 2019),
          arXiv:1906.02735.

    Examples:
        >>> import torch
        >>> layer = InvertibleResidual(3, fast="log_prob", hidden_dims=(16,))
        >>> x, ladj = layer.inverse_and_ladj(torch.ones(5, 3))
        >>> x.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
        >>> bool(layer.lipschitz_bound() < 1)
        True
    """

    input_dim: int

    def __init__(
        self,
        input_dim: int,
        *,
        fast: Fast,
        hidden_dims: Sequence[int] = (64, 64),
        lipschitz: float = 0.97,
        context_dim: int = 0,
        activation: Contractive = "concat_lipswish",
        norm: Norm = "auto",
        log_det: LogDet = "auto",
        series: LogDetSeries | None = None,
        root: Root | None = None,
    ) -> None:
        super().__init__()
        owner = "InvertibleResidual"
        self.input_dim = positive_int(owner, "input_dim", input_dim)
        network = LipschitzMLP(
            input_dim,
            input_dim,
            hidden_dims,
            lipschitz=contraction_bound(owner, lipschitz),
            context_dim=context_dim,
            activation=activation,
            norm=norm,
        )
        self.context_dim = network.context_dim
        self._contract(network, input_dim, fast=fast, log_det=log_det, series=series, root=root)

    def _columns(
        self, value: Tensor, context: Tensor | None, name: str
    ) -> tuple[Tensor, torch.Size]:
        h = features_first(self, value, context, name)  # (D, *batch)
        batch = h.shape[1:]
        return h.reshape(self.input_dim, math.prod(batch)), batch

    def _events(self, columns: Tensor, batch: torch.Size) -> Tensor:
        return features_last(columns.reshape(self.input_dim, *batch))

    @property
    def sign(self) -> int:
        """+1 for one dimension."""
        return 1 if self.input_dim == 1 else super().sign
