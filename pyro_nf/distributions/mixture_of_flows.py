"""Mixtures of flows: several flows as one distribution."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, cast

import torch
from torch import Tensor, nn

from pyro_nf._checks import choice, non_negative_int
from pyro_nf.distributions._clusters import clusters
from pyro_nf.distributions._values import check_finite_context
from pyro_nf.distributions.flow import Flow
from pyro_nf.distributions.flow_mixture import FlowMixture
from pyro_nf.nn import MLP
from pyro_nf.transforms import FlowTransform
from pyro_nf.transforms._contract import auxiliary as auxiliary_channel
from pyro_nf.transforms._contract.boundary import check_context, check_tensor
from pyro_nf.transforms._support.same import same_support

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

    Attributes:
        aux_weights: As a flow's, ``{}`` at first: the components' own are not used, because their
            side results are added up by name.

    Raises:
        TypeError: If ``flows`` is no sequence, or a component no flow.
        ValueError: If there is none, shapes, supports or sizes disagree, or an option is unknown.

    References:
        - Mixtures of experts (Jordan & Jacobs, 1994), Neural Computation 6(2).

    Examples:
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
        parts = _checked_flows(flows)
        self.flows = nn.ModuleList(parts)
        self.event_shape = parts[0].event_shape
        given = non_negative_int("MixtureOfFlows", "context_dim", context_dim)
        sizes = {given, *(flow.context_dim for flow in parts)} - {0}
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
        self.aux_weights: dict[str, float] = {}
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
            ValueError: If a context is missing, superfluous or of another size; under validation
                if it is not finite.
        """
        check_context(self, context)
        if FlowMixture._validate_args:
            check_finite_context("A mixture of flows", context)
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
    def auxiliary(self, names: Iterable[str] | None = None) -> Iterator[dict[str, Tensor]]:
        """Collects what the components' layers report beside the density, added up by name.

        Args:
            names: What to collect; None for all.

        Yields:
            A dict from name to tensor of shape ``(*batch,)``, filled by the passes in the block.
        """
        tokens = [p._token for p in self.modules() if isinstance(p, FlowTransform)]
        with auxiliary_channel.collect(tokens, names) as results:
            yield results

    def extra_repr(self) -> str:
        """How the weights are made."""
        return f"weights={self.weights!r}"


def _checked_flows(flows: Sequence[Flow]) -> list[Flow]:
    if not isinstance(flows, Iterable):
        raise TypeError(
            f"MixtureOfFlows got flows of type {type(flows).__name__}. Pass a list of them, such "
            "as [flow, another]."
        )
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
    supports = [part.transform.codomain for part in parts]
    for support in supports[1:]:
        if not same_support(supports[0], support):
            raise ValueError(
                f"MixtureOfFlows got components with supports {supports[0]!r} and {support!r}. "
                "Build all with the same support."
            )
    return parts
