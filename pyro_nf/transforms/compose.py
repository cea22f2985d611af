"""Chains of layers, with torch's and Pyro's own transforms as possible parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast

import torch
from pyro.distributions.conditional import ConditionalTransform
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import ComposeTransform, Transform, constraints

from pyro_nf.transforms._contract.features import sum_rightmost
from pyro_nf.transforms._contract.protocol import Bound, FlowTransform
from pyro_nf.transforms._recompute import Walk, in_segments, segment_count
from pyro_nf.transforms.foreign import as_flow_transform

# A subclass of PyroModule's own metaclass, so that PyroModule[Compose] still works.
_PyroModuleType: Any = type(PyroModule)


class _ChainType(_PyroModuleType):
    """Makes every chain an instance of ``Compose``, which stands under torch's and Pyro's names.

    Pyro's conditional chain makes one of Pyro's own, and a conditioned ``Compose`` is a view.
    """

    def __instancecheck__(cls, instance: Any) -> bool:
        if super().__instancecheck__(instance):
            return True
        if cls is not Compose:
            return False
        if isinstance(instance, Bound):
            instance = instance.layer
        return isinstance(instance, ComposeTransform) or type.__instancecheck__(cls, instance)


class Compose(FlowTransform, metaclass=_ChainType):
    """The chain ``y = parts[-1](… parts[0](x))``, base -> data.

    One pass over the parts gives the value and the log-determinant, in either direction. The
    context goes to every part that takes one.

    Args:
        parts: Layers, or any torch or Pyro transforms (``.inv`` of torch's included).
        cache_size: As torch's chain takes it; reuse needs none.
        context_dim: Needed only with conditional transforms of Pyro's own, which do not tell.
        recompute_segments: Number of segments whose activations are computed again for the
            gradient, see :meth:`~pyro_nf.distributions.Flow.recompute_activations`; None for
            about the square root of the number of parts, 0 to keep all. Also an attribute.

    Raises:
        TypeError: If a part is no transform.
        ValueError: If the parts disagree about the size of the event or of the context, or the
            number of segments is negative.

    Examples:
        >>> import torch
        >>> from torch.distributions import ExpTransform
        >>> from pyro_nf.transforms import Compose, Permutation
        >>> chain = Compose([Permutation([1, 0]), ExpTransform()])
        >>> y, ladj = chain.forward_and_ladj(torch.zeros(5, 2))
        >>> y.shape, ladj.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    recompute_segments: int = 0

    def __init__(
        self,
        parts: Iterable[Transform | ConditionalTransform],
        cache_size: int = 0,
        *,
        context_dim: int = 0,
        recompute_segments: int | None = 0,
    ) -> None:
        super().__init__()
        del cache_size
        if isinstance(parts, Transform):
            raise TypeError(
                f"Compose got one {type(parts).__name__}. Pass a list of transforms: [transform]."
            )
        layers = nn.ModuleList(as_flow_transform(part, context_dim) for part in parts)
        self.parts = cast("Sequence[FlowTransform]", layers)
        self.recompute_segments = segment_count(
            "Compose", "recompute_segments", recompute_segments, len(layers)
        )
        sizes = {part.context_dim for part in self.parts} - {0}
        if len(sizes) > 1:
            raise ValueError(
                f"Compose got parts with context_dim {sorted(sizes)}. Build all of them with one "
                "context_dim; a part without context needs none."
            )
        self.context_dim = sizes.pop() if sizes else 0
        chain = ComposeTransform(list(self.parts))  # torch knows what event dimensions add up to
        self._domain_dim = chain.domain.event_dim
        self._codomain_dim = chain.codomain.event_dim
        first = self.parts[0].input_dim if self.parts else None
        if first is not None and self._domain_dim == 1:
            self._forward_shape(torch.Size([first]))  # raises where the parts' sizes do not fit

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps through the parts in order."""
        start = Walk(x, None, self._domain_dim)
        return in_segments(_forward, [*self.parts], start, context, self.recompute_segments).result

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps through the parts' inverses in reverse order."""
        start, parts = Walk(y, None, self._codomain_dim), [*self.parts][::-1]
        return in_segments(_inverse, parts, start, context, self.recompute_segments).result

    def initialize(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Initialises the parts from the data, in one walk data -> base."""
        for part in reversed([*self.parts]):
            y = part.initialize(y, context if part.context_dim else None)
        return y

    @property
    def domain(self) -> constraints.Constraint:  # type: ignore[override]
        """The first part's domain, with the event dimensions that the chain couples."""
        first = next((part.domain for part in self.parts), constraints.real)
        return _coupled(first, self._domain_dim)

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        """The last part's codomain, with the event dimensions that the chain couples."""
        *_, last = constraints.real, *(part.codomain for part in self.parts)
        return _coupled(last, self._codomain_dim)

    @property
    def sign(self) -> int:
        """The product of the parts' signs."""
        sign = 1
        for part in self.parts:
            sign = sign * part.sign
        return sign

    @property
    def ladj_direction(self) -> Literal["forward", "inverse"]:  # type: ignore[override]
        """The direction in which no part is slow, where there is one."""
        slow_forward = any(part.ladj_direction == "inverse" for part in self.parts)
        return "inverse" if slow_forward else "forward"

    @property
    def input_dim(self) -> Any:  # type: ignore[override]
        """The first part's size on the base side that is known."""
        return next((p.input_dim for p in self.parts if p.input_dim is not None), None)

    def _forward_shape(self, shape: torch.Size) -> torch.Size:
        for part in self.parts:
            shape = part._forward_shape(shape)
        return shape

    def _inverse_shape(self, shape: torch.Size) -> torch.Size:
        for part in reversed([*self.parts]):
            shape = part._inverse_shape(shape)
        return shape

    def extra_repr(self) -> str:
        """The sizes, and the segments that are recomputed."""
        segments = f", recompute_segments={self.recompute_segments}"
        return super().extra_repr() + (segments if self.recompute_segments else "")

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> FlowTransform:
        return self.parts[index]


def _forward(parts: Sequence[FlowTransform], walk: Walk, context: Tensor | None) -> Walk:
    """Walks through consecutive parts, base -> data."""
    x, total, event_dim = walk
    for part in parts:
        x, ladj = part.forward_and_ladj(x, context if part.context_dim else None)
        before, after = part.domain.event_dim, part.codomain.event_dim
        ladj = sum_rightmost(ladj, event_dim - before)
        total = ladj if total is None else total + ladj
        event_dim += after - before
    return Walk(x, total, event_dim)


def _inverse(parts: Sequence[FlowTransform], walk: Walk, context: Tensor | None) -> Walk:
    """Walks through the inverses of consecutive parts, data -> base."""
    y, total, event_dim = walk
    for part in parts:
        y, ladj = part.inverse_and_ladj(y, context if part.context_dim else None)
        before, after = part.codomain.event_dim, part.domain.event_dim
        ladj = sum_rightmost(ladj, event_dim - before)
        total = ladj if total is None else total + ladj
        event_dim += after - before
    return Walk(y, total, event_dim)


def _coupled(constraint: constraints.Constraint, event_dim: int) -> constraints.Constraint:
    """The constraint with batch dimensions reinterpreted up to ``event_dim``."""
    more = event_dim - constraint.event_dim
    return constraints.independent(constraint, more) if more else constraint
