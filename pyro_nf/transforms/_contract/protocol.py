"""The contract of a layer: what torch and Pyro ask of it, derived from its two passes.

A layer implements :meth:`FlowTransform.forward_and_ladj` and
:meth:`FlowTransform.inverse_and_ladj`. Conditioning, the inverse, shapes, side results and reuse
follow from them here and in ``_two_passes.py``.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from pyro.distributions import TransformModule
from pyro.distributions.conditional import ConditionalTransform
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_nf.transforms._contract import auxiliary as auxiliary_channel
from pyro_nf.transforms._contract.bayesian import bind_samples, holds_samples
from pyro_nf.transforms._contract.boundary import check_context, check_event, refuse_context
from pyro_nf.transforms._contract.reuse import Slot
from pyro_nf.transforms._contract.two_passes import TwoPasses


class FlowTransform(TwoPasses, TransformModule):
    """A bijection with parameters: a Pyro ``TransformModule`` that may depend on a context.

    ``forward`` runs base -> data: x is the base side, y the data side. Subclasses implement
    :meth:`forward_and_ladj` and :meth:`inverse_and_ladj`.

    Attributes:
        input_dim: Size of the event's last dimension (None: any).
        context_dim: Size of the context's last dimension; 0 without context.
        domain, codomain: Torch constraints of the two sides, with the rank of their events.
        ladj_direction: The direction in which the log-determinant is cheap.
        reusable: False while the two directions disagree (batch normalisation in training).
        recomputable: False while a pass uses ``torch.func.vjp`` or ``grad``, which torch refuses
            where activations are recomputed; those of such a layer are kept.
        side_results: Names of the side results that the layer can report, see :meth:`record`.
    """

    domain: constraints.Constraint = constraints.real_vector
    codomain: constraints.Constraint = constraints.real_vector
    input_dim: int | None = None
    context_dim: int = 0
    reusable: bool = True
    recomputable: bool = True
    side_results: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self._slot = Slot()
        self._token = object()  # one identity for the layer and for its bound copies
        object.__setattr__(self, "_inverse_layer", None)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps base to data.

        Args:
            x: Base side, shape ``(*batch, *event)``.
            context: Shape ``(*context_batch, context_dim)``; its batch broadcasts with that of x.

        Returns:
            ``y`` of shape ``(*batch, *event)`` and ``log|det dy/dx|`` of shape ``(*batch,)``.
        """
        raise NotImplementedError

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to base.

        Args:
            y: Data side, shape ``(*batch, *event)``.
            context: Shape ``(*context_batch, context_dim)``; its batch broadcasts with that of y.

        Returns:
            ``x`` of shape ``(*batch, *event)`` and ``log|det dx/dy|`` of shape ``(*batch,)``.
        """
        raise NotImplementedError

    def condition(self, context: Tensor | None) -> FlowTransform | Bound:
        """Creates a view with the context fixed, a plain transform that owns no parameters.

        A layer without context is returned as it is (Pyro conditions every part of a chain).
        Weights that are ``PyroSample`` attributes are drawn now and kept by the view.

        Args:
            context: Shape ``(*context_batch, context_dim)``.

        Raises:
            ValueError: If the layer needs a context and none, or one of another size, is given.
        """
        if holds_samples(self):
            context = check_context(self, context) if self.context_dim else None
            return Bound(bind_samples(self), context, reuse="never")
        if self.context_dim == 0:
            return self
        return Bound(self, check_context(self, context))

    @property
    def inv(self) -> FlowTransform:
        """The inverse as a layer that shares the parameters; ``t.inv.inv is t``."""
        known = self._inverse_layer
        if known is None or known.layer is not self:  # a shallow copy brings the original's
            from pyro_nf.transforms.inverse import Inverse

            # Past the registry of modules: there, state_dict() would recurse for ever.
            object.__setattr__(self, "_inverse_layer", Inverse(self))
        return cast("FlowTransform", self._inverse_layer)

    @property
    def sign(self) -> int:
        """+1 or -1 for an increasing or decreasing map of one dimension."""
        raise NotImplementedError(
            f"{type(self).__name__} is no monotone map of one dimension, so it has no sign. "
            "Use log_prob and sample instead of cdf and icdf."
        )

    def initialize(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Sets what the layer takes from data (default: nothing) and maps the data to the base.

        Args:
            y: Data of shape ``(*batch, *event)``, at least two rows.
            context: The rows' context.

        Returns:
            The base side of the data.
        """
        return self.inverse_and_ladj(y, context)[0]

    def record(self, name: str, value: Tensor) -> None:
        """Reports a side result of shape ``(*batch,)`` to every :meth:`auxiliary` block for it.

        Compute what is dear only where :meth:`wanted` says so.
        """
        auxiliary_channel.record(self._token, name, value)

    def wanted(self, name: str) -> bool:
        """Whether an open :meth:`auxiliary` block collects this layer's side result ``name``."""
        return auxiliary_channel.wanted(self._token, name)

    @contextmanager
    def auxiliary(self, names: Iterable[str] | None = None) -> Iterator[dict[str, Tensor]]:
        """Collects the side results of this layer and its parts by name while the block is open.

        Values reported under one name are added, so a chain gives one total for each name.

        Args:
            names: What to collect; None for all. Layers compute what is dear only if it is.

        Yields:
            A dict from name to tensor of shape ``(*batch,)``, filled by the passes in the block.

        Raises:
            TypeError: If ``names`` is one string.
        """
        tokens = [p._token for p in self.modules() if isinstance(p, FlowTransform)]
        with auxiliary_channel.collect(tokens, names) as results:
            yield results

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """The shape of y for x of this shape, batch dimensions included."""
        check_context(self, None)
        return self._forward_shape(torch.Size(shape))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """The shape of x for y of this shape, batch dimensions included."""
        check_context(self, None)
        return self._inverse_shape(torch.Size(shape))

    def _forward_shape(self, shape: torch.Size) -> torch.Size:
        """Forward shape without the context's batch; layers that change the event override it."""
        return check_event(self, shape, "x")

    def _inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Inverse shape without the context's batch; layers that change the event override it."""
        return check_event(self, shape, "y")

    def _stamped(self) -> tuple[nn.Module | None, Tensor | None]:
        return self, None

    def __repr__(self) -> str:
        return nn.Module.__repr__(self)

    def extra_repr(self) -> str:
        """The sizes, for ``repr``."""
        context = f", context_dim={self.context_dim}" if self.context_dim else ""
        return f"input_dim={self.input_dim}{context}"


# Inheriting from this ABC would clash with the metaclass of PyroModule[...]; registering does not.
ConditionalTransform.register(FlowTransform)


class Bound(TwoPasses):
    """A layer with its context fixed: a plain transform that owns no parameters.

    Args:
        layer: The layer it views.
        context: Shape ``(*context_batch, layer.context_dim)``, or None.
        reuse: "stamped" reuses a pass when all is as it was; "never" does not.
    """

    def __init__(
        self,
        layer: FlowTransform,
        context: Tensor | None,
        reuse: Literal["stamped", "never"] = "stamped",
    ) -> None:
        super().__init__()
        self.layer = layer
        self.context = context
        self.reuse = reuse
        self.ladj_direction = layer.ladj_direction
        self._slot = Slot()
        self._inverse_view: weakref.ref[Bound] | None = None

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        del context
        return self.layer.forward_and_ladj(x, self.context)

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        del context
        return self.layer.inverse_and_ladj(y, self.context)

    @property
    def domain(self) -> constraints.Constraint:  # type: ignore[override]
        """The layer's domain."""
        return self.layer.domain

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        """The layer's codomain."""
        return self.layer.codomain

    @property
    def sign(self) -> int:
        """The layer's sign."""
        return self.layer.sign

    @property
    def inv(self) -> Bound:
        """The view of the layer's inverse with the same context; ``t.inv.inv is t``."""
        view = None if self._inverse_view is None else self._inverse_view()
        if view is None:
            view = _BoundInverse(self)
            # Weakly: a cycle would keep the remembered tensors until the next garbage collection.
            self._inverse_view = weakref.ref(view)
        return view

    def condition(self, context: Tensor | None) -> Bound:
        """Returns the view itself: its context is fixed."""
        del context
        return self

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """The shape of y for x of this shape, broadcast with a context's batch of many rows."""
        out = self.layer._forward_shape(torch.Size(shape))
        return self._with_context_batch(out, self.layer.codomain.event_dim)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """The shape of x for y of this shape, broadcast with a context's batch of many rows."""
        out = self.layer._inverse_shape(torch.Size(shape))
        return self._with_context_batch(out, self.layer.domain.event_dim)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_inverse_view": None}

    def _with_context_batch(self, shape: torch.Size, event_dim: int) -> torch.Size:
        # One row of context adds no batch, as in Pyro; FlowDistribution keeps a batch of one.
        if self.context is None or self.context.shape[:-1].numel() == 1:
            return shape
        cut = len(shape) - event_dim
        return torch.broadcast_shapes(shape[:cut], self.context.shape[:-1]) + shape[cut:]

    def _stamped(self) -> tuple[nn.Module | None, Tensor | None]:
        return (self.layer if self.reuse == "stamped" else None), self.context

    def __repr__(self) -> str:
        shape = None if self.context is None else tuple(self.context.shape)
        return f"Bound({self.layer!r}, context of shape {shape})"


class _BoundInverse(Bound):
    """The inverse of a bound view: it shares the view's remembered pass."""

    def __init__(self, bound: Bound) -> None:
        super().__init__(bound.layer.inv, bound.context, bound.reuse)
        self.bound = bound

    @property
    def inv(self) -> Bound:
        self.bound._inverse_view = weakref.ref(self)  # a copy of this view has lost it
        return self.bound

    def __call__(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        refuse_context(self, context)
        return self.bound._inv_call(x)

    def _inv_call(self, y: Tensor) -> Tensor:
        return self.bound(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return -self.bound.log_abs_det_jacobian(y, x)

    def clear_cache(self) -> None:
        self.bound.clear_cache()
