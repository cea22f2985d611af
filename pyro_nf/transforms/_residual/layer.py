"""What invertible residual layers share, whatever their events: both directions on columns."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pyro_nf._checks import choice, finite_float
from pyro_nf._precision import as_parameters, narrow, widen, without_autocast
from pyro_nf._tracing import is_traced
from pyro_nf.bijections import Root
from pyro_nf.bijections._root import check_root
from pyro_nf.nn._lipschitz_network import LipschitzNetwork
from pyro_nf.transforms._contract.protocol import FlowTransform
from pyro_nf.transforms._residual.function import Contraction
from pyro_nf.transforms._residual.implicit import invert, is_factored
from pyro_nf.transforms._residual.log_det import LogDet, LogDeterminant
from pyro_nf.transforms._residual.options import LogDetSeries

Fast = Literal["log_prob", "sample"]


class ResidualLayer(FlowTransform):
    """A layer v = u + g(u, c) for a contraction g (abstract).

    A subclass brings its network with :meth:`_contract`, and says how events become columns and
    back.
    """

    network: LipschitzNetwork
    fast: Fast

    def _contract(
        self,
        network: LipschitzNetwork,
        size: int,
        *,
        fast: Fast,
        log_det: LogDet,
        series: LogDetSeries | None,
        root: Root | None,
    ) -> None:
        """Sets the network of ``size`` numbers and how its equations are solved."""
        owner = type(self).__name__
        self.fast = choice(owner, "fast", fast, ("log_prob", "sample"))
        series = LogDetSeries() if series is None else series
        if not isinstance(series, LogDetSeries):
            raise TypeError(
                f"{owner} got series={series!r}. Pass pyro_nf.transforms.LogDetSeries(terms=...) "
                "or None."
            )
        self.size = size
        self.log_det = LogDeterminant(owner, size, log_det, series)
        self.root = Root() if root is None else check_root(owner, root)
        self.network = network

    def _columns(
        self, value: Tensor, context: Tensor | None, name: str
    ) -> tuple[Tensor, torch.Size]:
        """Checks what enters; returns columns ``(D, n)`` and the batch of these n."""
        raise NotImplementedError

    def _events(self, columns: Tensor, batch: torch.Size) -> Tensor:
        """Columns ``(D, n)`` in the logical shape ``(*batch, *event)``."""
        raise NotImplementedError

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
        columns, batch = self._columns(u, context, name)
        with without_autocast(columns):
            wide = widen(columns)
            change, log_det = self.log_det(self._function(context, batch), wide)
        return self._as_pass(wide + change, log_det, batch, columns.dtype)

    def _solve(self, v: Tensor, context: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
        """The direction that is a fixed point."""
        columns, batch = self._columns(v, context, name)
        with without_autocast(columns):
            g = self._function(context, batch)
            u = invert(g, widen(columns), self.root, type(self).__name__)
            return self._as_pass(u, -self.log_det(g, u)[1], batch, columns.dtype)

    def _function(self, context: Tensor | None, batch: torch.Size) -> Contraction:
        """The network for a context, as a function of columns."""
        return self.network.read(as_parameters(context, self.network), batch)

    def _as_pass(
        self, columns: Tensor, log_det: Tensor, batch: torch.Size, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """The result and the log-determinant of each row, in the shapes of the contract."""
        return self._events(narrow(columns, dtype), batch), narrow(log_det, dtype).reshape(batch)

    @property
    def reusable(self) -> bool:  # type: ignore[override]
        """False while a second pass would draw other noise or see other norms."""
        return self.log_det.steady and (self.network.steady or not self.training)

    @property
    def recomputable(self) -> bool:  # type: ignore[override]
        """False where Jacobians are no matrices but products, by ``torch.func``."""
        return self.log_det.exact and is_factored(self.size)

    @property
    def ladj_direction(self) -> Literal["forward", "inverse"]:  # type: ignore[override]
        """The direction in closed form."""
        return "forward" if self.fast == "sample" else "inverse"

    def extra_repr(self) -> str:
        """The sizes and the fast direction."""
        return f"{super().extra_repr()}, fast={self.fast!r}"


def contraction_bound(owner: str, lipschitz: float) -> float:
    """Returns a Lipschitz bound if it is inside (0, 1), else raises."""
    finite_float(owner, "lipschitz", lipschitz)
    if not 0 < lipschitz < 1:
        raise ValueError(
            f"{owner} got lipschitz={lipschitz}. Pass a bound inside (0, 1), say 0.97: from 1 "
            "on the layer need not be invertible."
        )
    return lipschitz
