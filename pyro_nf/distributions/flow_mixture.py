"""The distribution of a mixture of flows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_nf._tracing import is_compiled_or_mapped


class FlowMixture(dist.TorchDistribution):
    r"""The distribution of a mixture, made by calling a :class:`MixtureOfFlows`.

    .. math:: \log p(y) = \log \sum_{k=1}^{K} \exp(\log w_k + \log p_k(y))

    Cost: ``log_prob`` and ``responsibilities`` that of all components; ``sample`` too, since a
    batch draws from each.

    Args:
        components: The K distributions, of one event shape; their batches broadcast.
        log_weights: Shape ``(K, *batch)``, normalised over K.
        validate_args: As for any torch distribution.

    Raises:
        ValueError: If there are no components, or another number of weights; under validation,
            if the weights do not sum to one.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> from pyro_nf.distributions import FlowMixture
        >>> weights = torch.tensor([0.3, 0.7])
        >>> d = FlowMixture([flows.maf(2)(), flows.maf(2)()], weights.log())
        >>> d
        FlowMixture(batch_shape=(), event_shape=(2,), components=2)
        >>> d.responsibilities(d.sample((5,))).shape
        torch.Size([2, 5])
    """

    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012  (torch's way)

    def __init__(
        self,
        components: Sequence[Distribution],
        log_weights: Tensor,
        validate_args: bool | None = None,  # noqa: FBT001  (torch's signature)
    ) -> None:
        _check_weights(len(components), log_weights)
        batch = torch.broadcast_shapes(
            log_weights.shape[1:], *(component.batch_shape for component in components)
        )
        self.components = [_expanded(component, batch) for component in components]
        lead = (len(components), *(1,) * (len(batch) - log_weights.ndim + 1))
        self.log_weights = log_weights.reshape(*lead, *log_weights.shape[1:]).expand(-1, *batch)
        super().__init__(batch, components[0].event_shape, validate_args=validate_args)
        if self._validate_args:
            _check_sum(log_weights)

    @property
    def support(self) -> constraints.Constraint | None:
        """The components' support."""
        return self.components[0].support

    def log_prob(self, value: Tensor) -> Tensor:
        """Computes the log density, of shape ``sample_shape + batch_shape``, in nats."""
        return self._joint(value).logsumexp(0)

    def responsibilities(self, value: Tensor) -> Tensor:
        """Computes each component's probability to have made ``value``: ``(K, *batch)``."""
        return self._joint(value).softmax(0)

    def _joint(self, value: Tensor) -> Tensor:
        scores = torch.stack([component.log_prob(value) for component in self.components])
        lead = (1,) * (scores.ndim - self.log_weights.ndim)
        weights = self.log_weights
        return scores + weights.reshape(weights.shape[0], *lead, *weights.shape[1:])

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws without gradients: ``sample_shape + batch_shape + event_shape``."""
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            draws = torch.stack([component.sample(shape) for component in self.components])
            if not draws[0].numel():
                return draws[0]
            chooser = dist.Categorical(logits=self.log_weights.movedim(0, -1), validate_args=False)
            chosen = chooser.sample(shape)  # (*sample, *batch)
            chosen = chosen.reshape(1, *chosen.shape, *(1,) * len(self.event_shape))
            return draws.gather(0, chosen.expand(1, *draws.shape[1:])).squeeze(0)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Raises: the choice of a component has no gradient.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "A mixture of flows has no rsample: the choice of a component has no gradient. Use "
            "sample(), or rsample() of each of its components and weigh them."
        )

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> FlowMixture:
        """Creates the distribution with a larger batch shape; draws are independent over it."""
        new = self._get_checked_instance(FlowMixture, _instance)
        batch = torch.Size(batch_shape)
        count, *own = self.log_weights.shape
        lead = (1,) * (len(batch) - len(own))
        weights = self.log_weights.reshape(count, *lead, *own).expand(count, *batch)
        FlowMixture.__init__(
            new, [_expanded(c, batch) for c in self.components], weights, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def __repr__(self) -> str:
        return (
            f"FlowMixture(batch_shape={tuple(self.batch_shape)}, "
            f"event_shape={tuple(self.event_shape)}, components={len(self.components)})"
        )


def _check_weights(count: int, log_weights: Tensor) -> None:
    if not count:
        raise ValueError("FlowMixture got no components. Pass at least one distribution.")
    if log_weights.ndim == 0 or len(log_weights) != count:
        raise ValueError(
            f"FlowMixture got {count} components and log_weights of shape "
            f"{tuple(log_weights.shape)}. Pass one for each component: ({count}, *batch)."
        )


def _check_sum(log_weights: Tensor) -> None:
    if is_compiled_or_mapped() or log_weights.is_meta:
        return
    total = log_weights.detach().float().exp().sum(0)
    # In 16 bits each weight is off by half a unit of its own logarithm.
    tolerance = max(1e-4, 4 * torch.finfo(log_weights.dtype).eps)
    wrong = ~((total - 1).abs() <= tolerance)
    if bool(wrong.any()):
        raise ValueError(
            f"FlowMixture got weights that sum to {float(total[wrong][0]):.6g}. Normalise them: "
            "log_weights.log_softmax(0)."
        )


def _expanded(component: Distribution, batch: torch.Size) -> Distribution:
    return component if component.batch_shape == batch else component.expand(batch)
