"""A flow: a base distribution and a transform, as one module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from pyro_nf._checks import positive_float
from pyro_nf.distributions._base import base_wanted, check_base
from pyro_nf.distributions._compiled import CompiledPasses
from pyro_nf.distributions._temperature import at_temperature
from pyro_nf.distributions._values import check_finite_context
from pyro_nf.distributions.flow_distribution import FlowDistribution
from pyro_nf.transforms._contract.bayesian import holds_samples
from pyro_nf.transforms._contract.boundary import check_context, check_dtype, check_tensor
from pyro_nf.transforms._recompute import segment_count
from pyro_nf.transforms._support.angles import remedy
from pyro_nf.transforms.compose import Compose
from pyro_nf.transforms.foreign import as_flow_transform
from pyro_nf.transforms.support import ToSupport


class Flow(nn.Module):
    """A normalizing flow: calling it gives a Pyro distribution.

    ``flow()`` or, with a context, ``flow(context)`` returns a
    :class:`~pyro_nf.distributions.FlowDistribution` with ``batch_shape == context.shape[:-1]``.
    It serves as a likelihood, a prior or a guide like any other Pyro distribution; in a model,
    declare the parameters with ``pyro.module("flow", flow)``.

    Args:
        base: A module whose call with an optional context gives the base distribution.
        transform: Layer, base -> data, or a sequence of them: any torch or Pyro transforms.
        support: Where the data lie: a Pyro constraint, or a sequence of one for each dimension. A
            last layer that follows ``biject_to(support)`` is added.

    Raises:
        TypeError: If the base is no module that gives a distribution, or a transform is none.
        ValueError: If base, transform and support do not fit: a transform of an interval needs a
            base on that interval.

    Attributes:
        aux_weights: Weight of each side result of the layers by name, where ``fit_density`` is
            given none; ``{}`` at first. A plain dict, no part of the ``state_dict``.

    Examples:
        >>> import torch
        >>> from pyro_nf.distributions import DiagonalNormal, Flow
        >>> from pyro_nf.transforms import ActNorm
        >>> flow = Flow(DiagonalNormal(3), ActNorm(3))
        >>> flow().sample((5,)).shape, flow().log_prob(torch.zeros(5, 3)).shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(
        self,
        base: nn.Module,
        transform: Transform | Iterable[Transform],
        *,
        support: constraints.Constraint | Sequence[constraints.Constraint] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(base, nn.Module):
            raise TypeError(base_wanted(base))
        parts = [transform] if isinstance(transform, Transform) else list(transform)
        if support is not None:
            parts.append(ToSupport(support, getattr(base, "input_dim", None)))
        self.base = base
        self.transform = as_flow_transform(parts[0]) if len(parts) == 1 else Compose(parts)
        base_context = getattr(base, "context_dim", 0)
        if self.transform.context_dim and base_context not in (0, self.transform.context_dim):
            raise ValueError(
                f"Flow got a base with context_dim={base_context} and a transform with "
                f"context_dim={self.transform.context_dim}. Build both with the same context_dim."
            )
        self.context_dim = self.transform.context_dim or base_context
        size, base_size = self.transform.input_dim, getattr(base, "input_dim", None)
        if None not in (size, base_size) and size != base_size:
            raise ValueError(
                f"Flow got a base with input_dim={base_size} and a transform with "
                f"input_dim={size}. Build both with the same input_dim."
            )
        check_base(base, self._any_context(), self.transform.domain)
        self.aux_weights: dict[str, float] = {}
        self._compile_options: dict[str, Any] | None = None
        self._compiled: CompiledPasses | None = None

    @property
    def input_dim(self) -> int | None:
        """Size of the base side's last dimension."""
        size = self.transform.input_dim
        return getattr(self.base, "input_dim", None) if size is None else size

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one datum."""
        base = self.base(self._any_context())
        shape = base.batch_shape + base.event_shape
        event_dim = max(len(base.event_shape), self.transform.domain.event_dim)
        return self.transform._forward_shape(shape[len(shape) - event_dim :])

    def _any_context(self) -> Tensor | None:
        if not self.context_dim:
            return None
        like = next(chain(self.parameters(), self.buffers()), torch.zeros(()))
        return torch.zeros(self.context_dim, dtype=like.dtype, device=like.device)

    def forward(
        self, context: Tensor | None = None, *, temperature: float = 1.0
    ) -> FlowDistribution:
        r"""Creates the distribution of the data, given a context where the flow has one.

        At a temperature T the base keeps its location and has T times its spread, a normal base
        :math:`N(\mu, (T\sigma)^2)`: below 1 draws come from nearer to the mode, less varied and
        often sounder. It is a distribution like any other, whose ``log_prob`` is its own density,
        not the trained one. A multi-level flow's learned priors are affine maps of that base, so
        they are scaled, too. A compiled flow runs uncompiled at another temperature than 1.

        Args:
            context: Shape ``(*batch, context_dim)``.
            temperature: Factor T > 0 on the base's spread: on the scale of normal, Student's t,
                Laplace and Cauchy bases, and of each component of a mixture of them.

        Raises:
            TypeError: If the base has no scale, and the temperature is not 1.
            ValueError: If a context is missing, superfluous or of another size, or the temperature
                is not positive; under validation if the context is not finite.

        References:
            Glow: Generative flow with invertible 1×1 convolutions (Kingma & Dhariwal, 2018),
            arXiv:1807.03039: draws at a reduced temperature.
        """
        temperature = positive_float("A flow", "temperature", temperature)
        check_context(self, context)
        if context is not None:
            check_dtype("This flow", "context", context, self)
        inner = context if self.transform.context_dim else None
        if inner is None and FlowDistribution._validate_args:  # else the distribution checks it
            check_finite_context("A flow", context)
        base, passes = self.base(context), self._passes()
        if temperature != 1:
            base, passes = at_temperature(base, temperature), None
        return FlowDistribution(base, self.transform, inner, passes=passes)

    def compile(self, **options: Any) -> Flow:  # type: ignore[override]
        """Compiles the density and the draw, each when it is first used.

        From then on ``flow()`` is scored and drawn by programs of ``torch.compile``: without a
        graph break, one for each dtype, gradient mode and number of batch dimensions, whatever
        their sizes (a batch of one makes one more, and so do other modes or frozen parameters).
        Hooks added later are not seen: compile again. Small batches gain most, up to three times;
        the first call takes 10 to 60 seconds. Layers that search for a root or solve an equation
        cannot be compiled whole in that direction: pass ``fullgraph=False``, and they run between
        the compiled parts. Numbers are not validated, as in any compiled distribution of torch;
        shapes and dtypes are. Blocks that collect side results, weights that Pyro samples and
        ``torch.func`` transforms take the layers' own passes.

        Args:
            options: As for ``torch.compile``; by default ``fullgraph=True, dynamic=True``. On a
                GPU, ``mode="reduce-overhead"`` replays CUDA graphs.

        Returns:
            The flow itself. Copies compile anew; nothing of it is in the ``state_dict``.

        Examples:
            >>> import torch
            >>> from pyro_nf import flows
            >>> flow = flows.maf(3).compile(backend="eager")
            >>> flow().log_prob(torch.zeros(5, 3)).shape
            torch.Size([5])
        """
        self._compile_options = {"fullgraph": True, "dynamic": True, **options}
        self._compiled = None
        return self

    def _passes(self) -> CompiledPasses | None:
        if self._compile_options is None or torch.compiler.is_compiling():
            return None
        if holds_samples(self.base):
            return None
        if self._compiled is None or self._compiled.flow is not self:  # a copy brings another's
            self._compiled = CompiledPasses(self, self._compile_options)
        return self._compiled

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None}

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Sets what the layers take from data (scales, locations), in one walk data -> base.

        Layers that were initialised before keep their values, so a second call changes nothing.

        Args:
            x: Data, shape ``(*batch, *event_shape)``, at least 2 finite rows.
            context: Shape ``(*batch, context_dim)``.

        Raises:
            ValueError: If there are fewer than two rows, a value is not finite, or shapes do not
                fit.
        """
        check_context(self, context)
        check_tensor("initialize", "x", x)
        check_dtype("This flow", "x", x, self)
        event_dim = self.transform.codomain.event_dim
        rows = x.shape[: x.ndim - event_dim].numel()
        if rows < 2:
            raise ValueError(f"initialize got {rows} rows of data. Pass at least 2.")
        if not torch.isfinite(x).all():
            raise ValueError("initialize got NaN or infinite data. Remove those rows first.")
        if not self.transform.codomain.check(x).all():
            raise ValueError(
                f"initialize got data outside of the flow's support {self.transform.codomain}. "
                + remedy(
                    self.transform.codomain,
                    "Remove those rows, or build the flow with another support.",
                )
            )
        self.transform.initialize(x, context if self.transform.context_dim else None)

    def recompute_activations(self, segments: int | None = None) -> Flow:
        """Trades time for memory: activations are computed again for the gradient, not kept.

        Each chain of layers is walked in segments, of which only the inputs are kept. With as many
        segments as the square root of the number of layers, a training step's activations grow
        with that root instead of the number, for less than one more pass (and torch's bookkeeping
        of each tensor, which small batches feel). Values and gradients stay exactly the same:
        random layers see the same numbers again, running averages move once, side results are
        reported once. ``Continuous.evaluations`` counts the latter of the two passes. It holds
        wherever gradients are recorded, second ones included; ``torch.compile``, ``torch.func``
        and forward mode keep activations as they do without, and so do residual layers whose
        log-determinant is estimated.

        Args:
            segments: Number of segments; None for about the square root of the number of layers.
                0 keeps all activations, as a new flow does, and so does 1. More than there are
                layers count as one each.

        Returns:
            The flow itself. The setting is no part of the ``state_dict``; copies keep it.

        Raises:
            TypeError, ValueError: If ``segments`` is no integer or negative.

        References:
            Training deep nets with sublinear memory cost (Chen et al., 2016), arXiv:1604.06174.

        Examples:
            >>> from pyro_nf import flows
            >>> flow = flows.realnvp(6, transforms=15).recompute_activations()
            >>> flow.transform.recompute_segments  # of 16 layers, the last of which standardises
            4
        """
        for part in self.transform.modules():
            if issubclass(type(part), Compose):  # isinstance takes Pyro's own chains, too
                part.recompute_segments = segment_count(
                    "recompute_activations", "segments", segments, len(part)
                )
        return self

    @contextmanager
    def auxiliary(self, names: Iterable[str] | None = None) -> Iterator[dict[str, Tensor]]:
        """Collects what layers report beside the density (see ``FlowTransform.auxiliary``).

        Args:
            names: What to collect; None for all.

        Yields:
            A dict from name to tensor of shape ``(*batch,)``, filled by the passes in the block.

        Examples:
            >>> import torch
            >>> from pyro_nf import flows
            >>> flow = flows.maf(2)
            >>> with flow.auxiliary() as side_results:
            ...     log_prob = flow().log_prob(torch.zeros(5, 2))
            >>> side_results
            {}
        """
        with self.transform.auxiliary(names) as results:
            yield results
