"""Mixtures of flows: several flows as one distribution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_nf._checks import choice, non_negative_int
from pyro_nf.distributions._clusters import clusters
from pyro_nf.distributions.flow import Flow
from pyro_nf.nn import MLP
from pyro_nf.transforms import FlowTransform
from pyro_nf.transforms._contract import auxiliary as auxiliary_channel
from pyro_nf.transforms._contract.boundary import check_context, check_tensor

Weights = Literal["learned", "fixed", "context"]


class MixtureOfFlows(nn.Module):
    r"""Several flows as one distribution: calling it gives a Pyro distribution.

    .. math:: p(y \mid c) = \sum_{k=1}^{K} w_k(c) \, p_k(y \mid c)

    A flow of a normal base leaves bridges of density between separate modes; a mixture need not.
    Like a :class:`Flow` it serves as a likelihood or a prior, and ``fit_density`` trains it. Draws
    have no gradient (there is no ``rsample``), for the choice of a component has none.

    Cost: ``log_prob`` that of all components; ``sample`` too, since a batch draws from each.

    Args:
        flows: The K components, with the same event shape and the same support. Those built with a
            context all get the same one.
        weights: "learned" constants, "fixed" at 1/K, or from the "context" by a network. They
            start equal.
        context_dim: Size of the context, where no component has one but the weights do.
        hidden_dims: Widths of the network that makes weights from the context.
        seed: Seed of the parts of the data on which ``initialize`` starts the components.

    Raises:
        TypeError: If a component is no flow.
        ValueError: If there is none, shapes or sizes disagree, or an option is unknown.

    References:
        - Mixtures of experts (Jordan & Jacobs, 1994), Neural Computation 6(2).

    Example:
        >>> import torch
        >>> from pyro_nf import flows
        >>> mixture = MixtureOfFlows([flows.maf(2), flows.maf(2)])
        >>> mixture().sample((5,)).shape, mixture().log_prob(torch.zeros(5, 2)).shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(
        self,
        flows: Sequence[Flow],
        *,
        weights: Weights = "learned",
        context_dim: int = 0,
        hidden_dims: Sequence[int] = (64, 64),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.flows = nn.ModuleList(_checked_flows(flows))
        self.event_shape = flows[0].event_shape
        given = non_negative_int("MixtureOfFlows", "context_dim", context_dim)
        sizes = {given, *(flow.context_dim for flow in flows)} - {0}
        if len(sizes) > 1:
            raise ValueError(
                f"MixtureOfFlows got components and weights with context_dim "
                f"{sorted(sizes)}. Build all with the same context_dim, or without."
            )
        self.context_dim = max(sizes, default=0)
        self.weights: Weights = choice(
            "MixtureOfFlows", "weights", weights, ("learned", "fixed", "context")
        )
        if weights == "context" and not self.context_dim:
            raise ValueError(
                "MixtureOfFlows got weights='context' and components without one. "
                "Pass context_dim=3, say."
            )
        self.seed = non_negative_int("MixtureOfFlows", "seed", seed)
        count = len(self.flows)
        if weights == "context":
            self.network = MLP(self.context_dim, count, hidden_dims)
        elif weights == "learned":
            self.logits = nn.Parameter(torch.zeros(count))
        else:
            self.register_buffer("logits", torch.zeros(count))

    @property
    def components(self) -> list[Flow]:
        """The flows."""
        return cast("list[Flow]", list(self.flows))

    @property
    def input_dim(self) -> int | None:
        """Size of the components' base side."""
        return self.components[0].input_dim

    def log_weights(self, context: Tensor | None = None) -> Tensor:
        """Computes the components' log-weights, ``(K, *batch)``; ``(K,)`` without a context."""
        if self.weights != "context":
            return self.logits.log_softmax(0)
        check_context(self, context)
        return self.network(cast("Tensor", context).movedim(-1, 0)).log_softmax(0)

    def forward(self, context: Tensor | None = None) -> FlowMixture:
        """Creates the distribution of the data, given a context where the mixture has one.

        Args:
            context: Shape ``(*batch, context_dim)``.

        Raises:
            ValueError: If a context is missing, superfluous or of another size.
        """
        check_context(self, context)
        components = [flow(context if flow.context_dim else None) for flow in self.components]
        return FlowMixture(components, self.log_weights(context))

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Sets what each component takes from data on a part of the data of its own.

        The parts come from k-means, so that the components start apart. Layers that were
        initialised before keep their values.

        Args:
            x: Data, shape ``(*batch, *event_shape)``, at least 2 finite rows.
            context: Shape ``(*batch, context_dim)``.

        Raises:
            ValueError: If there are fewer than two rows, a value is not finite, or shapes do not
                fit.
        """
        check_context(self, context)
        check_tensor("initialize", "x", x)
        cut = x.ndim - len(self.event_shape)
        batch = x.shape[: max(0, cut)]
        if x.shape[max(0, cut) :] != self.event_shape:
            raise ValueError(
                f"initialize of a mixture with event shape {tuple(self.event_shape)} got data of "
                f"shape {tuple(x.shape)}; expected (*batch, "
                f"{', '.join(map(str, self.event_shape))})."
            )
        if batch.numel() < 2:
            raise ValueError(f"initialize got {batch.numel()} rows of data. Pass at least 2.")
        if not bool(x.isfinite().all()):
            raise ValueError("initialize got NaN or infinite data. Remove those rows first.")
        rows = x.reshape(batch.numel(), *self.event_shape)
        if context is not None:
            context = context.expand(*batch, -1).reshape(batch.numel(), -1)
        parts = clusters(rows.flatten(1), len(self.flows), self.seed)
        for flow, part in zip(self.components, parts, strict=True):
            own = context[part] if context is not None and flow.context_dim else None
            flow.initialize(rows[part], own)

    @contextmanager
    def auxiliary(self) -> Iterator[dict[str, Tensor]]:
        """Collects what the components' layers report beside the density, added up by name."""
        tokens = [p._token for p in self.modules() if isinstance(p, FlowTransform)]
        with auxiliary_channel.collect(tokens) as results:
            yield results

    def extra_repr(self) -> str:
        """How the weights are made."""
        return f"weights={self.weights!r}"


class FlowMixture(dist.TorchDistribution):
    """The distribution of a mixture of flows, made by calling a :class:`MixtureOfFlows`.

    Args:
        components: The K distributions, of one event shape; their batches broadcast.
        log_weights: Shape ``(K, *batch)``, normalised over K.
        validate_args: As for any torch distribution.
    """

    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012  (torch's way)

    def __init__(
        self,
        components: Sequence[Distribution],
        log_weights: Tensor,
        validate_args: bool | None = None,  # noqa: FBT001  (torch's signature)
    ) -> None:
        batch = torch.broadcast_shapes(
            log_weights.shape[1:], *(component.batch_shape for component in components)
        )
        self.components = [_expanded(component, batch) for component in components]
        lead = (1,) * (len(batch) - log_weights.ndim + 1)
        self.log_weights = log_weights.reshape(-1, *lead, *log_weights.shape[1:]).expand(
            -1, *batch
        )
        super().__init__(batch, components[0].event_shape, validate_args=validate_args)

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


def _expanded(component: Distribution, batch: torch.Size) -> Distribution:
    return component if component.batch_shape == batch else component.expand(batch)


def _checked_flows(flows: Sequence[Flow]) -> list[Flow]:
    parts = list(flows)
    if not parts:
        raise ValueError("MixtureOfFlows got no components. Pass at least one flow.")
    for part in parts:
        if not isinstance(part, Flow):
            raise TypeError(
                f"MixtureOfFlows got a component of type {type(part).__name__}. Pass flows, such "
                "as pyro_nf.flows.nsf(2)."
            )
    shapes = {tuple(part.event_shape) for part in parts}
    if len(shapes) > 1:
        raise ValueError(
            f"MixtureOfFlows got components with event shapes {sorted(shapes)}. Build all for the "
            "same data."
        )
    return parts
