"""How a residual layer computes its log-determinant in either mode."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from pyro_nf._checks import choice
from pyro_nf._tracing import is_traced
from pyro_nf.transforms._residual.exact import log_det_plus_identity
from pyro_nf.transforms._residual.function import Contraction
from pyro_nf.transforms._residual.options import LogDetSeries
from pyro_nf.transforms._residual.series import rademacher, roulette_weights, series_log_det

LogDet = Literal["auto", "exact", "series", "roulette"]

_EXACT_IN_TRAINING = 64
_EXACT_IN_EVALUATION = 512


class LogDeterminant(nn.Module):
    """log det(I + J) of a contraction, exact or estimated.

    Args:
        owner: Who asks, for the messages.
        input_dim: Number D of dimensions.
        method: "auto", "exact", "series" or "roulette".
        series: The options of the estimates.
    """

    probes: Tensor | None

    def __init__(self, owner: str, input_dim: int, method: LogDet, series: LogDetSeries) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.chosen: LogDet = choice(
            owner, "log_det", method, ("auto", "exact", "series", "roulette")
        )
        self.series = series
        fixed = self._method(training=False) == "series"
        self.register_buffer("probes", self._fixed_probes() if fixed else None)

    def forward(self, g: Contraction, u: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates g with its log-determinant.

        Args:
            g: The contraction.
            u: Shape ``(D, columns)``.

        Returns:
            g(u), shape ``(D, columns)``, and log det(I + J), ``(columns,)``.
        """
        method = self._method(training=self.training)
        if method == "exact":
            change, jacobian = g.with_jacobian(u)
            return change, log_det_plus_identity(jacobian)
        # Tracers differentiate plain operations, so the gradient's own estimate steps aside.
        gradient: Literal["exact", "neumann"] = (
            "neumann" if self.training and not is_traced() else "exact"
        )
        weights = self._weights(method)
        estimates = [series_log_det(g, u, probe, weights, gradient) for probe in self._probes(u)]
        return estimates[0][0], torch.stack([log_det for _, log_det in estimates]).mean(0)

    @property
    def exact(self) -> bool:
        """Whether the current mode's method is no estimate."""
        return self._method(training=self.training) == "exact"

    @property
    def steady(self) -> bool:
        """Whether two calls in the current mode give the same."""
        method = self._method(training=self.training)
        return method == "exact" or (method == "series" and not self.training)

    def _method(self, *, training: bool) -> Literal["exact", "series", "roulette"]:
        if self.chosen != "auto":
            return self.chosen
        if self.input_dim <= (_EXACT_IN_TRAINING if training else _EXACT_IN_EVALUATION):
            return "exact"
        return "roulette" if training else "series"

    def _weights(self, method: Literal["series", "roulette"]) -> list[float]:
        options = self.series
        if method == "series":
            return [1.0] * options.terms
        exact_terms = options.exact_terms if self.training else options.eval_exact_terms
        return roulette_weights(exact_terms, options.stop)

    def _probes(self, u: Tensor) -> list[Tensor]:
        """Signs of the shape of u: of each element while training, else the same for all rows."""
        if self.training or self.probes is None:
            count = self.series.probes if self.training else self.series.eval_probes
            return [rademacher(u) for _ in range(count)]
        return [signs.to(u.dtype).unsqueeze(-1).expand_as(u) for signs in self.probes]

    def _fixed_probes(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.series.seed)
        like = torch.empty(self.series.eval_probes, self.input_dim, device="cpu")
        return torch.tensor(rademacher(like, generator).tolist())

    def extra_repr(self) -> str:
        """The choice of the method."""
        return repr(self.chosen)
