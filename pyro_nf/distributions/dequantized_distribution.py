"""The distribution of integers that a flow of dequantised data gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_nf._checks import positive_int
from pyro_nf._modes import in_mode
from pyro_nf._tracing import host_can_read
from pyro_nf.distributions._integers import check_levels, checked_integers
from pyro_nf.distributions.flow_distribution import FlowDistribution

if TYPE_CHECKING:
    from pyro_nf.distributions.dequantized import Dequantized

NUMBERS_AT_ONCE = 2**20  # of data in one pass, where memory must not grow


class DequantizedDistribution(dist.TorchDistribution):
    r"""The distribution of integers, made by calling a :class:`Dequantized` flow.

    .. math:: P(x) = \int_{[0,1)^D} p\bigl((x + u) / L\bigr) L^{-D} \, du

    ``log_prob`` is an estimate of it from below with fresh noise at each call; see
    :class:`Dequantized`. Draws are the flow's, floored and clamped to the levels: exact up to the
    mass that the flow puts outside of [0, 1], which P lacks; none with ``Logit(alpha=0.0)``.

    Args:
        module: The dequantised flow.
        density: The distribution of the dequantised data, of which an image is one event.
        context: The flow's context, shape ``(*context_batch, context_dim)``, for a dequantizer
            that reads it.
        validate_args: As for any torch distribution.

    Raises:
        TypeError: From ``log_prob``, if a value is no tensor of integers.
        ValueError: From ``log_prob``, if a value has another event shape or its batch does not
            broadcast; under validation if an integer is none of the levels.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> from pyro_nf.distributions import Dequantized
        >>> d = Dequantized(flows.nsf(3), levels=17)()
        >>> d
        DequantizedDistribution(batch_shape=(), event_shape=(3,), levels=17)
        >>> x = d.sample((5,))
        >>> x.dtype, d.log_prob(x).shape, d.log_prob(x, draws=8).shape
        (torch.int64, torch.Size([5]), torch.Size([5]))
    """

    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012  (torch's way)

    def __init__(
        self,
        module: Dequantized,
        density: FlowDistribution,
        context: Tensor | None = None,
        validate_args: bool | None = None,  # noqa: FBT001  (torch's signature)
    ) -> None:
        self.module, self.density, self._context = module, density, context
        super().__init__(density.batch_shape, density.event_shape, validate_args=validate_args)

    @property
    def levels(self) -> int:
        """Number L of levels."""
        return self.module.levels

    @property
    def support(self) -> constraints.Constraint:
        """The integers 0..L - 1."""
        integers = constraints.integer_interval(0, self.levels - 1)
        return constraints.independent(integers, len(self.event_shape))

    def log_prob(self, value: Tensor, *, draws: int | None = None) -> Tensor:
        """Computes the lower bound of the log probability, with fresh noise, in nats.

        Args:
            value: Integers of shape ``(*batch, *event_shape)``.
            draws: Number of draws of the noise, all at once; None for the module's. More than one
                is biased upwards where layers estimate their log-determinant, as in training.

        Returns:
            Shape ``sample_shape + batch_shape``; -inf at integers that are none of the levels, if
            they are not validated. Its gradient reaches flow and dequantizer.
        """
        count = self.module.draws if draws is None else positive_int("log_prob", "draws", draws)
        weights = self._log_weights(self._checked(value), count)
        return weights[0] if count == 1 else weights.logsumexp(0) - math.log(count)

    @torch.no_grad()
    def estimate_log_prob(self, value: Tensor, draws: int = 100) -> Tensor:
        """Estimates the log probability from many draws, without gradients, in nats.

        The bound of ``log_prob`` with as many draws, taken a few at a time: memory does not grow
        with them. Runs in evaluation mode, and gives every part the mode it had.

        Args:
            value: Integers of shape ``(*batch, *event_shape)``.
            draws: Number of draws of the noise.

        Returns:
            Shape ``sample_shape + batch_shape``.
        """
        left = positive_int("estimate_log_prob", "draws", draws)
        x, weights = self._checked(value), []
        at_once = max(1, NUMBERS_AT_ONCE // max(1, x.numel()))
        with in_mode(self.module, "eval"):
            while left > 0:
                weights.append(self._log_weights(x, min(at_once, left)))
                left -= at_once
        return torch.cat(weights).logsumexp(0) - math.log(draws)

    def _log_weights(self, x: Tensor, draws: int) -> Tensor:
        """Log p(y) - D log L - log q(u|x) of draws of u, ``(draws, *batch)``; -inf at no level."""
        lead = (draws,) if draws > 1 else ()  # a layer's side results have the batch's shape
        given = x.to(self.module.dtype)
        x = given.clamp(0, self.levels - 1)  # what is no level has finite gradients, then none
        outside = (given != x).flatten(-len(self.event_shape)).any(-1)
        u, log_q = self.module._noise(x, self._context, lead)
        log_p = self.density.log_prob(self.module._dequantized(x, u))
        weights = log_p - log_q - self.event_shape.numel() * math.log(self.levels)
        weights = weights.masked_fill(outside, -math.inf)
        return weights if lead else weights.unsqueeze(0)

    def _checked(self, value: Tensor) -> Tensor:
        """The integers in the common batch of themselves and the distribution."""
        value = checked_integers("log_prob", "x", value, self.levels)
        event, cut = self.event_shape, max(0, value.ndim - len(self.event_shape))
        if value.shape[cut:] != event:
            raise ValueError(
                f"log_prob of a Dequantized flow with event shape {tuple(event)} got a value of "
                f"shape {tuple(value.shape)}; expected (*batch, {', '.join(map(str, event))})."
            )
        try:
            batch = torch.broadcast_shapes(value.shape[:cut], self.batch_shape)
        except RuntimeError:
            raise ValueError(
                f"log_prob of a Dequantized flow with batch shape {tuple(self.batch_shape)} got a "
                f"value with batch shape {tuple(value.shape[:cut])}, which do not broadcast. Give "
                "one value for each context, or put samples in dimensions further left."
            ) from None
        if self._validate_args:
            check_levels("log_prob", "x", value, self.levels)
        return value.expand(*batch, *event)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws int64 numbers: ``sample_shape + batch_shape + event_shape``, one forward pass."""
        y = self.density.sample(torch.Size(sample_shape))
        if y.numel() and host_can_read(y) and not bool(y.isfinite().all()):
            raise ValueError(
                "A Dequantized flow drew numbers that are not finite, for which no integers "
                "stand. Look for parameters or a context that are not finite."
            )
        return (self.levels * y).floor().clamp(0, self.levels - 1).long()

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Raises: integers have no gradient.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "A Dequantized flow has no rsample: integers have no gradient. Use sample(), or the "
            "continuous flow itself: module.flow(context).rsample()."
        )

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> DequantizedDistribution:
        """Creates the distribution with a larger batch shape; draws are independent over it."""
        new = self._get_checked_instance(DequantizedDistribution, _instance)
        density = self.density.expand(torch.Size(batch_shape))
        DequantizedDistribution.__init__(
            new, self.module, density, self._context, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def __repr__(self) -> str:
        return (
            f"DequantizedDistribution(batch_shape={tuple(self.batch_shape)}, "
            f"event_shape={tuple(self.event_shape)}, levels={self.levels})"
        )
