"""Activations of a chain that are computed again for the gradient instead of kept.

Of n equal layers in k segments, what a pass keeps is the input of each segment, and what its
gradient computes anew at a time is one segment: memory for k + n/k layers instead of n, of the
order of the square root of n for k near it, at the price of less than one more pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.utils.checkpoint import checkpoint

from pyro_nf._checks import non_negative_int
from pyro_nf._tracing import is_traced
from pyro_nf.transforms._contract.auxiliary import Wishes

if TYPE_CHECKING:
    from pyro_nf.transforms._contract.protocol import FlowTransform


class Walk(NamedTuple):
    """Where a pass through a chain has come.

    Attributes:
        value: The value before the next part.
        ladj: The sum of the log-determinants so far; None before the first part.
        event_dim: Number of event dimensions of the value.
    """

    value: Tensor
    ladj: Tensor | None
    event_dim: int

    @property
    def result(self) -> tuple[Tensor, Tensor]:
        """The value, and the log-determinant: zeros of an empty chain."""
        value, ladj, _ = self
        return value, torch.zeros_like(value) if ladj is None else ladj


Step = Callable[[Sequence["FlowTransform"], Walk, Tensor | None], Walk]


def segment_count(owner: str, name: str, value: int | None, parts: int) -> int:
    """Returns the number of segments: as wished if it is an integer ≥ 0; √parts for None."""
    return round(math.sqrt(parts)) if value is None else non_negative_int(owner, name, value)


def in_segments(
    step: Step,
    parts: Sequence[FlowTransform],
    start: Walk,
    context: Tensor | None,
    segments: int,
) -> Walk:
    """Walks through a chain, recording all but the last segment without activations.

    The last one's gradient comes first, when nothing else is held, so its activations stay.
    Compilers, ``torch.func`` and forward mode follow plain operations alone: there, as where no
    gradient is recorded, the chain is walked as it is.

    Args:
        step: Walks through consecutive parts.
        parts: The chain, in the order of the walk.
        start: Where it begins.
        context: Shape ``(*context_batch, context_dim)``, or None.
        segments: Number of segments; below 2 all activations stay.
    """
    count = min(segments, len(parts))
    if count < 2 or not torch.is_grad_enabled() or is_traced():
        return step(parts, start, context)
    cuts = [i * len(parts) // count for i in range(count + 1)]
    *first, last = (parts[begin:end] for begin, end in pairwise(cuts))
    walk = start
    for segment in first:
        walk = _recomputed(step, segment, walk, context)
    return step(last, walk, context)


def _recomputed(
    step: Step, segment: Sequence[FlowTransform], walk: Walk, context: Tensor | None
) -> Walk:
    modules = list(dict.fromkeys(module for part in segment for module in part.modules()))
    if not all(getattr(module, "recomputable", True) for module in modules):
        return step(segment, walk, context)
    present, event_dim = _Circumstances(modules), walk.event_dim

    def run(value: Tensor, ladj: Tensor | None, context: Tensor | None) -> Walk:
        return step(segment, Walk(value, ladj, event_dim), context)

    done = checkpoint(
        run,
        walk.value,
        walk.ladj,
        context,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), present),
    )
    return cast("Walk", done)


class _Circumstances(AbstractContextManager[None]):
    """All that a segment's pass depends on besides its arguments and torch's own state.

    A gradient may be taken when modes have changed: parameters that a path gradient held constant
    require a gradient again, evaluation has begun, a batch normalisation has seen this very pass.
    Entering brings the circumstances back, once for each recomputation; leaving ends that.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modes = [(module, module.training) for module in modules]
        parameters = dict.fromkeys(p for m in modules for p in m._parameters.values())
        self._trained = [(p, p.requires_grad) for p in parameters if p is not None]
        # Of a segment's inputs torch looks after the versions itself.
        self._versions: list[tuple[Tensor, int]] = [
            (p, p._version) for p, _ in self._trained if not p.is_inference()
        ]
        self._buffers = [
            (module, name, buffer.clone())
            for changing in filter(_changes_in_a_pass, modules)
            for module in changing.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        # Other objects may stand in their places by then: functional_call brings and takes them.
        moved = {(module, name) for module, name, _ in self._buffers}
        self._places = [(m._parameters, n, p) for m in modules for n, p in m._parameters.items()]
        self._versions += [
            (b, b._version)
            for m in modules
            for n, b in m._buffers.items()
            if b is not None and (m, n) not in moved and not b.is_inference()
        ]
        self._wishes = Wishes.of_open_collectors()
        self._entered: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        self._entered.append(self._restored())
        self._entered[-1].__enter__()

    def __exit__(self, *error: Any) -> None:
        self._entered.pop().__exit__(*error)

    @contextmanager
    def _restored(self) -> Iterator[None]:
        if any(parameter._version != version for parameter, version in self._versions):
            raise RuntimeError(
                "A parameter or buffer was changed in place between a pass and its gradient, "
                "which computes the pass again. Take the gradient before the optimiser's step."
            )
        modes = [(module, module.training) for module, _ in self._modes]
        trained = [(parameter, parameter.requires_grad) for parameter, _ in self._trained]
        buffers = [(module, name, module._buffers[name]) for module, name, _ in self._buffers]
        now = [(where, name, where.get(name)) for where, name, _ in self._places]
        for where, name, parameter in self._places:
            where[name] = parameter
        _set(self._modes, self._trained)
        for module, name, buffer in self._buffers:
            # Another object, not other values: what the graph has saved of the present one stays.
            module._buffers[name] = buffer.clone()
        try:
            with self._wishes.unheard():
                yield
        finally:
            _set(modes, trained)
            for where, name, parameter in now:
                where[name] = parameter
            for module, name, present in buffers:
                module._buffers[name] = present


def _set(modes: Sequence[tuple[nn.Module, bool]], trained: Sequence[tuple[Any, bool]]) -> None:
    for module, training in modes:
        if module.training != training:
            module.training = training
    for parameter, requires_grad in trained:
        if parameter.requires_grad != requires_grad:
            parameter.requires_grad = requires_grad


def _changes_in_a_pass(module: nn.Module) -> bool:
    """Whether a pass in training moves buffers: running averages, singular vectors."""
    if not module.training:
        return False
    return isinstance(module, (_NormBase, _SpectralNorm)) or not getattr(module, "reusable", True)
