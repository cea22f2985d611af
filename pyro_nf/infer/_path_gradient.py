"""Path gradients: the score of one's own draw left out, because its mean is zero."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pyro.infer import Importance, RenyiELBO, ReweightedWakeSleep
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_nf.distributions import FlowDistribution
from pyro_nf.transforms._contract.features import sum_rightmost
from pyro_nf.transforms._contract.protocol import FlowTransform

_WEIGHTED = (Importance, RenyiELBO, ReweightedWakeSleep)


class PathGradientDistribution(FlowDistribution):
    r"""A flow's distribution that scores its own draw with constant parameters.

    The gradient of :math:`\log q_\phi(z_\phi)` has two parts: one along the path
    :math:`z_\phi`, and the score :math:`\partial_\phi \log q_\phi(z)` at a fixed z, whose mean is
    zero and whose variance is not, even where q is the posterior. Here the log density of the
    object's own latest draw keeps the path alone: the draw is taken back through the inverse with
    parameters that count as constants. Anything else is scored as ever, another draw or data
    included, so a flow that serves as a *prior* loses no gradient.

    The mean of the gradient stays that of the plain one under an objective that is a mean of
    log p - log q. It does not under importance weights, which are refused.

    Args:
        base: Module that gives the base distribution.
        transform: Layer, base -> data.

    References:
        Sticking the landing: simple, lower-variance gradient estimators for variational inference
        (Roeder et al., 2017), arXiv:1703.09194.

    Examples:
        >>> from pyro_nf import flows
        >>> flow = flows.realnvp(2)
        >>> q = PathGradientDistribution(flow.base, flow.transform)
        >>> q.log_prob(q.rsample((7,))).shape
        torch.Size([7])
    """

    def __init__(self, base: nn.Module, transform: FlowTransform) -> None:
        super().__init__(base(), transform)
        self._base, self._layer = base, transform

    def log_prob(self, value: Tensor, *, reuse: bool = True) -> Tensor:
        """Computes the log density; of the own latest draw, by its path alone."""
        own = self._draw is not None and self._draw.produced(value)
        if not (reuse and own and torch.is_grad_enabled()):
            return super().log_prob(value, reuse=reuse)
        _refuse_weighted_and_traced()
        with constant(self._base), constant(self._layer):
            x, ladj = self._layer.inverse_and_ladj(value)
            base: Distribution = self._base()
            # Event dimensions that the transform couples and the base does not.
            uncoupled = self._layer.domain.event_dim - len(base.event_shape)
            return sum_rightmost(base.log_prob(x), uncoupled) + ladj

    def expand(
        self, batch_shape: torch.Size | tuple[int, ...], _instance: Any = None
    ) -> PathGradientDistribution:
        """Creates the distribution with a larger batch shape."""
        new = self._get_checked_instance(PathGradientDistribution, _instance)
        super().expand(batch_shape, _instance=new)
        new._base, new._layer = self._base, self._layer
        return new


class Sampler:
    """Draws from a flow and scores the draws: what a distribution does, without its bookkeeping.

    A :class:`FlowDistribution` notes the state of every parameter with each draw, so that it can
    score the draw later. Where both happen at once that is work for nothing, a sixth of a step.

    Args:
        base: Module that gives the base distribution.
        transform: Layer, base -> data.
        gradient: Whether the draws are scored by their path alone.
    """

    def __init__(
        self, base: nn.Module, transform: FlowTransform, gradient: Literal["plain", "path"]
    ) -> None:
        self._base, self._transform, self._gradient = base, transform, gradient
        self._trained = [p for m in (base, transform) for p in m.parameters() if p.requires_grad]

    def __call__(self, count: int) -> tuple[Tensor, Tensor]:
        """Returns draws ``(count, D)`` and their log densities ``(count,)``."""
        base: Distribution = self._base()
        x = base.rsample(torch.Size([count]))
        z, ladj = self._transform.forward_and_ladj(x)
        # Event dimensions that the transform couples and the base does not.
        uncoupled = self._transform.domain.event_dim - len(base.event_shape)
        if self._gradient == "plain":
            return z, sum_rightmost(base.log_prob(x), uncoupled) - ladj
        with held_constant(self._trained):
            x, ladj = self._transform.inverse_and_ladj(z)
            return z, sum_rightmost(self._base().log_prob(x), uncoupled) + ladj


@contextmanager
def constant(module: nn.Module) -> Iterator[None]:
    """Makes a module's parameters constants for a block; the gradient of its input stays."""
    with held_constant([p for p in module.parameters() if p.requires_grad]):
        yield


@contextmanager
def held_constant(trained: Sequence[Tensor]) -> Iterator[None]:
    """Makes parameters that require a gradient constants for a block."""
    for parameter in trained:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad = True


def _refuse_weighted_and_traced() -> None:
    """Raises where the gradient would be biased, or could not be kept.

    An objective says nothing to the distributions it scores: its frame is looked for instead.
    """
    if torch._C._get_tracing_state():
        raise ValueError(
            "A path gradient cannot be traced by torch.jit: it needs parameters that are "
            "constants in one half of a step. Build the guide with path_gradient=False."
        )
    frame: Any = sys._getframe(2)
    while frame is not None:
        objective = frame.f_locals.get("self")
        if isinstance(objective, _WEIGHTED):
            raise ValueError(
                f"A path gradient is biased under {type(objective).__name__}, whose importance "
                "weights are functions of the draw. Use infer.IWELBO, whose gradient is doubly "
                "reparameterised, or build the guide with path_gradient=False."
            )
        frame = frame.f_back
