"""The distribution of a flow's data: Pyro's ``TransformedDistribution`` in one pass."""

from __future__ import annotations

from typing import Any, Protocol

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from pyro_nf.distributions._values import check_finite_context, check_values
from pyro_nf.transforms._contract.boundary import check_context, check_dtype, check_tensor
from pyro_nf.transforms._contract.features import sum_rightmost
from pyro_nf.transforms._contract.protocol import Bound, FlowTransform
from pyro_nf.transforms._contract.reuse import Pass


class Passes(Protocol):
    """Other ways through a flow than its layers' own."""

    def serve(self) -> bool:
        """Whether they may be taken now."""

    def log_prob(self, value: Tensor, context: Tensor | None) -> Tensor:
        """The log density of checked values."""

    def push(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Base to data, with the log-determinant."""


class FlowDistribution(dist.TransformedDistribution):
    r"""The distribution of ``y = transform(x)`` with ``x`` drawn from a base distribution.

    .. math:: \log p(y) = \log p_{\mathrm{base}}(x) - \log|\det \partial y / \partial x|

    Made by calling a :class:`~pyro_nf.distributions.Flow`. ``log_prob`` of data is one pass from
    data to base and remembers nothing. ``rsample`` keeps its pass on this object, so scoring one's
    own draw inverts nothing; that pass counts only while draw, parameters, context and modes are
    as they were.

    Args:
        base_dist: Distribution of the base side.
        transform: Layer, base -> data.
        context: Shape ``(*context_batch, context_dim)`` for a transform with context.
        validate_args: As for any torch distribution.
        passes: The compiled passes of a flow, if it has any.

    Raises:
        ValueError: If the transform does not fit the context, or the base's size; under validation
            if the context is not finite.
    """

    def __init__(
        self,
        base_dist: Distribution,
        transform: FlowTransform,
        context: Tensor | None = None,
        validate_args: bool | None = None,  # noqa: FBT001  (torch's signature)
        passes: Passes | None = None,
    ) -> None:
        if context is not None:
            check_context(transform, context)
            base_dist = _with_batch(base_dist, transform.domain.event_dim, context.shape[:-1])
        bound = transform.condition(context)
        self.transforms = [bound]
        self.base_dist, shape, event_dim = _fitted(base_dist, bound)
        cut = len(shape) - event_dim
        # Past torch's own constructor, which builds a chain to learn the same of one transform.
        Distribution.__init__(self, shape[:cut], shape[cut:], validate_args=validate_args)
        self._draw: Pass | None = None
        # Weights that Pyro samples are bound to a copy of the layers: the passes do not know it.
        sampled = isinstance(bound, Bound) and bound.reuse == "never"
        self._passes, self._given_context = None if sampled else passes, context
        if self._validate_args:
            check_finite_context("A flow", context)

    @property
    def transform(self) -> FlowTransform | Bound:
        """The transform, with its context fixed."""
        return self.transforms[0]

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draws with gradients: ``sample_shape + batch_shape + event_shape``, one forward pass."""
        return self._push(self.base_dist.rsample(torch.Size(sample_shape)))

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draws without gradients: ``sample_shape + batch_shape + event_shape``."""
        with torch.no_grad():
            return self._push(self.base_dist.sample(torch.Size(sample_shape)))

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """Draws with gradients and scores the draws, both by one forward pass.

        Unlike ``log_prob`` of a draw it inverts nothing in any case: with dropout in training, in
        inference mode or a compiled program, too. The draw's pass is not kept.

        Args:
            sample_shape: Shape of independent draws, in front of the batch shape.

        Returns:
            Draws of shape ``sample_shape + batch_shape + event_shape``, and their log densities,
            ``sample_shape + batch_shape``, in nats.
        """
        x = self.base_dist.rsample(torch.Size(sample_shape))
        y, ladj = self._forward(x)
        return y, self._density(x, -ladj)

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._passes is not None and self._passes.serve():
            return self._passes.push(x, self._given_context)
        return self.transform.forward_and_ladj(x)

    def _push(self, x: Tensor) -> Tensor:
        y, ladj = self._forward(x)
        module, context = self.transform._stamped()
        self._draw = None if module is None else Pass.remember(x, y, ladj, module, context)
        return y

    def log_prob(self, value: Tensor, *, reuse: bool = True) -> Tensor:
        """Computes the log density, of shape ``sample_shape + batch_shape``, in nats.

        Args:
            value: Data of shape ``(*batch, *event_shape)``.
            reuse: If ``value`` is this object's own latest draw, use the draw's own pass instead
                of inverting. Its gradient reaches parameters and base draw as ever; set this to
                False where the gradient with respect to ``value`` itself is wanted.

        Raises:
            ValueError: If ``value`` has another event shape, or its batch does not broadcast;
                under validation if a number is not finite or outside of the support.
        """
        self._check_shape(value)
        if reuse and self._draw is not None and self._draw.produced(value):
            x, ladj = self._draw.given, -self._draw.ladj
        elif self._passes is not None and self._passes.serve():
            return self._passes.log_prob(value, self._given_context)
        else:
            if self._validate_args:
                check_values(value, self.support, self.transform)
            x, ladj = self.transform.inverse_and_ladj(value)
        return self._density(x, ladj)

    def _density(self, x: Tensor, ladj: Tensor) -> Tensor:
        """The log density of the data that belong to ``x``, by ``ladj`` of data -> base."""
        # Event dimensions that the base couples and the transform does not, and the other way.
        uncoupled = len(self.event_shape) - self.transform.codomain.event_dim
        base_uncoupled = (
            uncoupled + self.transform.domain.event_dim - len(self.base_dist.event_shape)
        )
        base_log_prob = sum_rightmost(self.base_dist.log_prob(x), base_uncoupled)
        return base_log_prob + sum_rightmost(ladj, uncoupled)

    def _check_shape(self, value: Tensor) -> None:
        check_tensor("log_prob", "value", value)
        module = self.transform._stamped()[0]
        if module is not None:
            check_dtype("This flow", "value", value, module)
        event, batch = self.event_shape, value.shape[: value.ndim - len(self.event_shape)]
        if value.shape[max(0, value.ndim - len(event)) :] != event:
            raise ValueError(
                f"log_prob of a flow with event shape {tuple(event)} got a value of shape "
                f"{tuple(value.shape)}; expected (*batch, {', '.join(map(str, event))})."
            )
        if not _broadcast(batch, self.batch_shape):
            raise ValueError(
                f"log_prob of a flow with batch shape {tuple(self.batch_shape)} got a value with "
                f"batch shape {tuple(batch)}, which do not broadcast. Give one value for each "
                "context, or put samples in dimensions further left."
            )

    def expand(
        self, batch_shape: torch.Size | tuple[int, ...], _instance: Any = None
    ) -> FlowDistribution:
        """Creates the distribution with a larger batch shape; draws are independent over it."""
        new = self._get_checked_instance(FlowDistribution, _instance)
        super().expand(batch_shape, _instance=new)
        new._draw = new._passes = new._given_context = None
        return new

    def cdf(self, value: Tensor) -> Tensor:
        """Computes P(Y ≤ value) of a one-dimensional flow: ``(*batch, 1) -> (*batch,)``.

        Raises:
            NotImplementedError: If the flow has more dimensions or is not monotone by design.
        """
        marginal, sign = self._one_dimensional()
        below = marginal.cdf(self.transform.inverse_and_ladj(value)[0]).squeeze(-1)
        return _flipped(below, sign)

    def icdf(self, value: Tensor) -> Tensor:
        """Computes the quantiles of a one-dimensional flow: ``(*batch,) -> (*batch, 1)``.

        Raises:
            NotImplementedError: If the flow has more dimensions or is not monotone by design.
        """
        marginal, sign = self._one_dimensional()
        below = _flipped(value, sign).unsqueeze(-1)
        return self.transform.forward_and_ladj(marginal.icdf(below))[0]

    def _one_dimensional(self) -> tuple[Distribution, int]:
        """The base distribution without its event dimension, and the transform's sign."""
        base = self.base_dist
        if tuple(self.event_shape) != (1,) or not isinstance(base, Independent):
            raise NotImplementedError(
                "cdf and icdf need a flow of event shape (1,) on a base of independent "
                f"dimensions; this one has event shape {tuple(self.event_shape)} and a "
                f"{type(base).__name__} base. Use sample() and count instead."
            )
        return base.base_dist, self.transform.sign

    def __repr__(self) -> str:
        transform = self.transform
        layer = transform.layer if isinstance(transform, Bound) else transform
        return (
            f"FlowDistribution(batch_shape={tuple(self.batch_shape)}, "
            f"event_shape={tuple(self.event_shape)}, transform={type(layer).__name__})"
        )

    def clear_cache(self) -> None:
        """Forgets the latest draw's pass; needed only after a write that torch cannot see."""
        self._draw = None
        self.transform.clear_cache()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_draw": None, "_passes": None}


def _fitted(
    base: Distribution, transform: FlowTransform | Bound
) -> tuple[Distribution, torch.Size, int]:
    """The base in the transform's batch and event dimensions; the data's shape and event dims."""
    shape = base.batch_shape + base.event_shape
    event_dim = len(base.event_shape)
    before, after = transform.domain.event_dim, transform.codomain.event_dim
    if len(shape) < before:
        raise ValueError(
            f"A transform of {before} event dimension(s) got a base of shape {tuple(shape)}. "
            "Give the base more dimensions: base.expand(shape)."
        )
    forward_shape = transform.forward_shape(shape)
    expanded = transform.inverse_shape(forward_shape)
    if expanded != shape:
        base = base.expand(expanded[: len(expanded) - event_dim])
    if before > event_dim:
        base = dist.Independent(base, before - event_dim)
    return base, forward_shape, max(after, event_dim + after - before)


def _with_batch(base: Distribution, event_dim: int, batch: torch.Size) -> Distribution:
    """The base with the context's batch, which a conditioned layer does not tell if it is one."""
    shape = base.batch_shape + base.event_shape
    if batch.numel() != 1 or len(shape) - event_dim >= len(batch):
        return base
    whole = batch + shape[len(shape) - event_dim :]
    return base.expand(whole[: len(whole) - len(base.event_shape)])


def _broadcast(a: torch.Size, b: torch.Size) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(a), reversed(b), strict=False))


def _flipped(probability: Tensor, sign: int | Tensor) -> Tensor:
    """The probability itself below an increasing map, its complement below a decreasing one."""
    if isinstance(sign, int) and sign == 1:
        return probability
    return sign * (probability - 0.5) + 0.5
