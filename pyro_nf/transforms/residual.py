"""Invertible residual layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pyro_nf._checks import choice, finite_float, positive_int
from pyro_nf._tracing import is_traced
from pyro_nf.bijections import Root
from pyro_nf.bijections._root import check_root
from pyro_nf.nn._contractive import Contractive
from pyro_nf.nn._lipschitz_function import LipschitzFunction
from pyro_nf.nn._spectral import Norm
from pyro_nf.nn.lipschitz import LipschitzMLP
from pyro_nf.transforms._contract.features import features_first, features_last
from pyro_nf.transforms._contract.protocol import FlowTransform
from pyro_nf.transforms._linear.precision import as_parameters, narrow, widen, without_autocast
from pyro_nf.transforms._residual.implicit import invert, is_factored
from pyro_nf.transforms._residual.log_det import LogDet, LogDeterminant
from pyro_nf.transforms._residual.options import LogDetSeries


class InvertibleResidual(FlowTransform):
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
    probes: Tensor | None

    def __init__(
        self,
        input_dim: int,
        *,
        fast: Literal["log_prob", "sample"],
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
        self.fast: Literal["log_prob", "sample"] = choice(
            owner, "fast", fast, ("log_prob", "sample")
        )
        finite_float(owner, "lipschitz", lipschitz)
        if not 0 < lipschitz < 1:
            raise ValueError(
                f"{owner} got lipschitz={lipschitz}. Pass a bound inside (0, 1), say 0.97: from 1 "
                "on the layer need not be invertible."
            )
        series = LogDetSeries() if series is None else series
        if not isinstance(series, LogDetSeries):
            raise TypeError(
                f"{owner} got series={series!r}. Pass pyro_nf.transforms.LogDetSeries(terms=...) "
                "or None."
            )
        self.log_det = LogDeterminant(owner, self.input_dim, log_det, series)
        self.root = Root() if root is None else check_root(owner, root)
        self.network = LipschitzMLP(
            input_dim,
            input_dim,
            hidden_dims,
            lipschitz=lipschitz,
            context_dim=context_dim,
            activation=activation,
            norm=norm,
        )
        self.context_dim = self.network.context_dim

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps base to data: one pass if ``fast="sample"``, else a fixed point."""
        return (self._read if self.fast == "sample" else self._solve)(x, context, "x")

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to base: one pass if ``fast="log_prob"``, else a fixed point."""
        if self.training and torch.is_grad_enabled() and not is_traced():
            self.network.refine()
        return (self._read if self.fast == "log_prob" else self._solve)(y, context, "y")

    def lipschitz_bound(self) -> Tensor:
        """Computes a bound on the Lipschitz constant of g, the product of its layers' norms."""
        return self.network.lipschitz_bound()

    def _read(self, u: Tensor, context: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
        """The direction in closed form."""
        h = features_first(self, u, context, name)  # (D, *batch)
        columns = _columns(h)
        with without_autocast(h):
            change, log_det = self.log_det(self._function(context, h), columns)
        return _as_pass(h, columns + change, log_det)

    def _solve(self, v: Tensor, context: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
        """The direction that is a fixed point."""
        h = features_first(self, v, context, name)  # (D, *batch)
        with without_autocast(h):
            g = self._function(context, h)
            u = invert(g, _columns(h), self.root, "InvertibleResidual")
            return _as_pass(h, u, -self.log_det(g, u)[1])

    def _function(self, context: Tensor | None, h: Tensor) -> LipschitzFunction:
        """The network for a context, as a function of columns."""
        return self.network.read(as_parameters(context, self.network), h.shape[1:])

    @property
    def reusable(self) -> bool:  # type: ignore[override]
        """False while a second pass would draw other noise or see other norms."""
        return self.log_det.steady and (self.network.steady or not self.training)

    @property
    def recomputable(self) -> bool:  # type: ignore[override]
        """False where Jacobians are no matrices but products, by ``torch.func``."""
        return self.log_det.exact and is_factored(self.input_dim)

    @property
    def ladj_direction(self) -> Literal["forward", "inverse"]:  # type: ignore[override]
        """The direction in closed form."""
        return "forward" if self.fast == "sample" else "inverse"

    @property
    def sign(self) -> int:
        """+1 for one dimension."""
        return 1 if self.input_dim == 1 else super().sign

    def extra_repr(self) -> str:
        """The sizes and the fast direction."""
        return f"{super().extra_repr()}, fast={self.fast!r}"


def _columns(h: Tensor) -> Tensor:
    return widen(h.reshape(h.shape[0], math.prod(h.shape[1:])))  # (D, columns)


def _as_pass(h: Tensor, columns: Tensor, log_det: Tensor) -> tuple[Tensor, Tensor]:
    """The result and the log-determinant of each row, in the shapes of the contract."""
    result = narrow(columns, h.dtype).reshape(h.shape)
    return features_last(result), narrow(log_det, h.dtype).reshape(h.shape[1:])
