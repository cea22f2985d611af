"""The flow of the global latents, and that of a row's given these and the row's features."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Transform

from pyro_nf import bijections, flows
from pyro_nf._checks import choice
from pyro_nf.distributions import DiagonalNormal, Flow, FlowDistribution
from pyro_nf.infer._path_gradient import _refuse_weighted_and_traced, constant
from pyro_nf.infer.autoguide._posterior import (
    Affine,
    FlowLike,
    PosteriorFlow,
    affine_kind,
    posterior_flow,
)
from pyro_nf.infer.autoguide._whitening import Whitening
from pyro_nf.transforms import ActNorm, Compose, Elementwise, FlowTransform
from pyro_nf.transforms._contract.features import sum_rightmost
from pyro_nf.transforms.foreign import as_flow_transform

LocalFlow = str | Callable[[int, int], Flow | Transform | Iterable[Transform]]


class RowPosterior(nn.Module):
    """A conditional flow, an affine layer that reads the context linearly, and a frame.

    Args:
        base: Module that gives the base distribution.
        flow: The flow, base -> affine layer; None for none.
        affine: The affine layer.
        whitening: The frame, affine layer -> unconstrained latents of a row.
    """

    def __init__(
        self,
        base: nn.Module,
        flow: FlowTransform | None,
        affine: Elementwise,
        whitening: Whitening,
    ) -> None:
        super().__init__()
        self.base = base
        self.transform = Compose([p for p in (flow, affine, whitening) if p is not None])

    def forward(self, context: Tensor, scoring: Tensor | None = None) -> FlowDistribution:
        """Creates the distribution of rows' latents.

        Args:
            context: Shape ``(*batch, context_dim)``.
            scoring: The context with parameters that count as constants, for path gradients; None
                for plain ones.
        """
        if scoring is None:
            return FlowDistribution(self.base(context), self.transform, context)
        return ConditionalPathDistribution(self.base, self.transform, context, scoring)


class ConditionalPathDistribution(FlowDistribution):
    """A conditional flow's distribution that scores its own draw by the path alone.

    As :class:`~pyro_nf.infer._path_gradient.PathGradientDistribution`, but the context is made by
    parameters too, which must count as constants where the draw is scored.

    Args:
        base: Module that gives the base distribution.
        transform: Layer, base -> data.
        context: Shape ``(*batch, context_dim)``, to draw with.
        scoring: The same numbers, to score with.
    """

    def __init__(
        self, base: nn.Module, transform: FlowTransform, context: Tensor, scoring: Tensor
    ) -> None:
        super().__init__(base(context), transform, context)
        self._base, self._layer, self._scoring = base, transform, scoring

    def log_prob(self, value: Tensor, *, reuse: bool = True) -> Tensor:
        """Computes the log density; of the own latest draw, by its path alone."""
        own = self._draw is not None and self._draw.produced(value)
        if not (reuse and own and torch.is_grad_enabled()):
            return super().log_prob(value, reuse=reuse)
        _refuse_weighted_and_traced()
        with constant(self._base), constant(self._layer):
            x, ladj = self._layer.inverse_and_ladj(value, self._scoring)
            base = self._base(self._scoring)
            uncoupled = self._layer.domain.event_dim - len(base.event_shape)
            return sum_rightmost(base.log_prob(x), uncoupled) + ladj

    def expand(
        self, batch_shape: torch.Size | tuple[int, ...], _instance: Any = None
    ) -> ConditionalPathDistribution:
        """Creates the distribution with a larger batch shape."""
        new = self._get_checked_instance(ConditionalPathDistribution, _instance)
        super().expand(batch_shape, _instance=new)
        new._base, new._layer, new._scoring = self._base, self._layer, self._scoring
        return new


def global_posterior(
    owner: str,
    flow: FlowLike,
    affine: Affine | Literal["auto"] | None,
    tails: Literal["student"] | nn.Module | None,
    loc: Tensor,
    scale: float,
) -> PosteriorFlow:
    """Creates the flow of the global latents, in a frame of unit scale.

    No search for the posterior's bulk sets the frame here, so that its length is that of a step of
    the optimiser; the affine layer starts with the small scale.

    Args:
        owner: Who asks, for messages.
        flow: A name, a factory, a flow or transforms.
        affine: The affine layer.
        tails: The base's tails.
        loc: First location, shape ``(D,)``.
        scale: First standard deviation.
    """
    kind = affine_kind(owner, affine, len(loc))
    unit = torch.full_like(loc, scale if kind is None else 1.0)
    frame = unit.diag() if kind == "full" else unit
    made = posterior_flow(owner, flow, kind, tails, loc, frame)
    if made.affine is not None:
        named = made.affine.named_parameters()
        log_scale = next(p for name, p in named if name.endswith("log_scale"))
        nn.init.constant_(log_scale, math.log(scale))
    return made


def row_posterior(
    owner: str, flow: LocalFlow | None, context_dim: int, loc: Tensor, *, table: bool
) -> RowPosterior:
    """Creates the conditional flow of a row, in the dtype and on the device of ``loc``.

    Args:
        owner: Who asks, for messages.
        flow: A name, a function of the numbers of dimensions and of features, or None.
        context_dim: Number of features.
        loc: First location, shape ``(d,)``.
        table: Whether the last 2d features are a row's own location and log-scale.
    """
    dim = len(loc)
    layers, base = _conditional_flow(owner, flow, dim, context_dim)
    affine = Elementwise(bijections.Affine(), dim, context_dim=context_dim, hidden_dims=())
    if table:
        # From zero both the features and their weights would have no gradient.
        with torch.no_grad():
            affine.network.output.weight[:, -2 * dim :] = torch.eye(2 * dim)
    made = RowPosterior(
        DiagonalNormal(dim) if base is None else base,
        layers,
        affine,
        Whitening(loc, torch.ones_like(loc)),
    )
    return made.to(dtype=loc.dtype, device=loc.device)


def standardised(posterior: PosteriorFlow, x: Tensor) -> Tensor:
    """Takes latents to the coordinates before the affine layer, where they are of unit size."""
    z = posterior.whitening.inverse_and_ladj(x)[0]
    return z if posterior.affine is None else posterior.affine.inverse_and_ladj(z)[0]


def _conditional_flow(
    owner: str, flow: Any, dim: int, context_dim: int
) -> tuple[FlowTransform | None, nn.Module | None]:
    if flow is None:
        return None, None
    made = _by_name(owner, flow, dim, context_dim) if isinstance(flow, str) else None
    if made is None:
        if not callable(flow) or isinstance(flow, (Flow, Transform)):
            raise TypeError(
                f"{owner} got a local_flow of type {type(flow).__name__}. Pass a name such as "
                "'iaf', None, or a function from the numbers of dimensions and of features to a "
                "flow with that input_dim and context_dim."
            )
        made = flow(dim, context_dim)
    base: nn.Module | None = None
    if isinstance(made, Flow):
        transform, base = made.transform, made.base
    else:
        transform = as_flow_transform(made) if isinstance(made, Transform) else Compose(made)
    if transform.context_dim not in (0, context_dim) or transform.input_dim not in (None, dim):
        raise ValueError(
            f"{owner} got a local flow of input_dim={transform.input_dim} and "
            f"context_dim={transform.context_dim} for rows of {dim} unconstrained latents and "
            f"{context_dim} features. Build it with these sizes."
        )
    return transform, base


def _by_name(owner: str, name: str, dim: int, context_dim: int) -> Flow:
    choice(owner, "local_flow", name, flows.__all__)
    network: dict[str, Any] = {"context_dim": context_dim, "hidden_dims": (32, 32)}
    network["activation"] = "silu"
    if name in ("iaf", "maf", "realnvp", "nice", "nsf") and dim == 1:
        # Of one dimension most of these are affine, as the layer behind them is.
        spline = bijections.RationalQuadraticSpline(bins=8, bound=4.0)
        return Flow(DiagonalNormal(1), Elementwise(spline, 1, **network))
    options: dict[str, Any] = {"context_dim": context_dim}
    if name in ("iaf", "maf"):
        options = {"transforms": 2, **network}
    if name == "realnvp":
        options = {"transforms": 6, "mask": "random", **network}
    if name == "nsf":
        options = {"wiring": "coupling", "mask": "random", "transforms": 4, "bins": 8, **network}
    made: Flow = getattr(flows, name)(dim, **options)
    layers = list(made.transform) if isinstance(made.transform, Compose) else [made.transform]
    # The affine layer behind them does what the activation normalisation does from data.
    return Flow(made.base, layers[:-1] if isinstance(layers[-1], ActNorm) else layers)
