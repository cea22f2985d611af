"""When a stored pass still counts: only if everything it was computed from is as it was.

Torch's own cache compares tensors by identity alone and so returns results of old parameters,
results without a graph and graphs that were freed. Here a stored pass carries a stamp of all that
it depended on, and is dropped at the first difference. What goes unseen is a write that leaves no
trace in torch: ``p.data.copy_(...)``, or through ``p.numpy()``; ``clear_cache()`` is the remedy.
"""

from __future__ import annotations

import operator
import weakref
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from pyro.distributions.transforms import BatchNorm as PyroBatchNorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.optim.optimizer import register_optimizer_step_post_hook

from pyro_nf._tracing import is_compiled_or_mapped


class _OptimizerSteps:
    """A count of all optimiser steps of the process, from the first stored pass on.

    Fused optimisers and ``pyro.optim.ClippedAdam`` write parameters without raising their
    ``_version``; the count shows that they did.
    """

    count = 0
    _armed = False

    @classmethod
    def arm(cls) -> None:
        if not cls._armed:
            register_optimizer_step_post_hook(cls._increment)
            cls._armed = True

    @classmethod
    def _increment(cls, *_: Any) -> None:
        cls.count += 1


class _TensorMark:
    """A tensor's identity and state at one moment, held weakly."""

    __slots__ = ("data_ptr", "ref", "requires_grad", "version")

    def __init__(self, tensor: Tensor) -> None:
        self.ref = weakref.ref(tensor)
        self.version = tensor._version
        self.data_ptr = tensor.data_ptr()
        self.requires_grad = tensor.requires_grad

    def holds(self, tensor: Tensor | None) -> bool:
        """Whether ``tensor`` is the marked object in the marked state."""
        return (
            tensor is not None
            and self.ref() is tensor
            and self.version == tensor._version
            and self.data_ptr == tensor.data_ptr()
            and self.requires_grad == tensor.requires_grad
        )


# In training these give another result each time, or another in each direction.
UNSTEADY_IN_TRAINING = (_DropoutNd, nn.RReLU, _BatchNorm, PyroBatchNorm)


class _Kind(NamedTuple):
    """What the class of a module says of reuse.

    Attributes:
        unsteady: Whether its modules give other results in training.
        tells: Whether a module itself tells, by an attribute ``reusable``.
    """

    unsteady: bool
    tells: bool


@lru_cache(maxsize=4096)
def _kind(module_type: type[nn.Module]) -> _Kind:
    # Of the class: asked of a module, either takes longer than all else in the walk.
    unsteady = issubclass(module_type, UNSTEADY_IN_TRAINING)
    return _Kind(unsteady, hasattr(module_type, "reusable"))


class _State:
    """All tensors and training flags below a module, in a fixed order.

    One walk, since it is taken at every draw: ``module.modules()`` alone would cost more than a
    small layer.
    """

    __slots__ = ("flags", "reusable", "tensors")

    def __init__(self, module: nn.Module) -> None:
        tensors: list[Tensor | None] = []
        waiting: list[nn.Module | None] = [module]
        self.flags: list[bool] = []
        self.reusable = True
        for part in waiting:  # grows on the way
            if part is None:
                continue
            training, kind = part.training, _kind(type(part))  # type: ignore[arg-type]
            self.flags.append(training)
            if (training and kind.unsteady) or (kind.tells and not part.reusable):
                self.reusable = False
            tensors += part._parameters.values()
            tensors += part._buffers.values()
            waiting += part._modules.values()
        self.tensors: list[Tensor] = [tensor for tensor in tensors if tensor is not None]

    def marks(self) -> list[tuple[int, int, bool]]:
        """What a change leaves its trace in, for each tensor."""
        return [(t._version, t.data_ptr(), t.requires_grad) for t in self.tensors]


def _modes() -> tuple[bool, ...]:
    """The global modes that a result depends on."""
    return (
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
    )


class Stamp:
    """All that a pass depended on besides its input: parameters, buffers, context and modes."""

    __slots__ = ("_context", "_marks", "_modes", "_module", "_state", "_steps")

    def __init__(self, module: nn.Module, state: _State, context: Tensor | None) -> None:
        _OptimizerSteps.arm()
        self._module = weakref.ref(module)
        self._context = None if context is None else _TensorMark(context)
        self._modes = _modes()
        self._steps = _OptimizerSteps.count
        self._state, self._marks = state, state.marks()

    @classmethod
    def take(cls, module: nn.Module, context: Tensor | None) -> Stamp | None:
        """A stamp of the present, or None where nothing may be reused."""
        if is_compiled_or_mapped() or torch.is_inference_mode_enabled():
            return None
        state = _State(module)
        if not state.reusable:
            return None
        # Tensors made in inference mode keep no version.
        tensors = state.tensors if context is None else [context, *state.tensors]
        if any(map(Tensor.is_inference, tensors)):
            return None
        return cls(module, state, context)

    def holds(self) -> bool:
        """Whether all that was stamped is as it was."""
        module = self._module()
        if module is None or is_compiled_or_mapped() or torch.is_inference_mode_enabled():
            return False
        if self._modes != _modes() or self._steps != _OptimizerSteps.count:
            return False
        if self._context is not None and not self._context.holds(self._context.ref()):
            return False
        then, now = self._state, _State(module)
        return (
            then.flags == now.flags
            and len(then.tensors) == len(now.tensors)
            and all(map(operator.is_, then.tensors, now.tensors))
            and self._marks == now.marks()
        )


class Pass:
    """One pass through a transform: what it was given, what it produced (weakly), its log-det."""

    __slots__ = ("_given", "_produced", "_stamp", "given", "ladj")

    def __init__(self, given: Tensor, produced: Tensor, ladj: Tensor, stamp: Stamp) -> None:
        self.given = given
        self.ladj = ladj
        self._given = _TensorMark(given)
        self._produced = _TensorMark(produced)
        self._stamp = stamp

    @classmethod
    def remember(
        cls,
        given: Tensor,
        produced: Tensor,
        ladj: Tensor,
        module: nn.Module,
        context: Tensor | None,
    ) -> Pass | None:
        """A record of the pass just made, or None where nothing may be reused."""
        stamp = Stamp.take(module, context)
        if stamp is None or given.is_inference() or produced.is_inference():
            return None
        return cls(given, produced, ladj, stamp)

    def produced(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is what this pass produced and recomputing would give the same."""
        return (
            self._produced.holds(tensor) and self._given.holds(self.given) and self._stamp.holds()
        )


class Slot:
    """Room for the one pass that a transform remembers, with its direction."""

    __slots__ = ("_forward", "_pass")

    def __init__(self) -> None:
        self._pass: Pass | None = None
        self._forward = True

    def clear(self) -> None:
        """Forgets the stored pass."""
        self._pass = None

    def store(self, stored: Pass | None, *, forward: bool) -> None:
        """Remembers ``stored``, a pass base -> data if ``forward``; None forgets."""
        self._pass, self._forward = stored, forward

    def counterpart(self, tensor: Tensor, *, forward: bool) -> Tensor | None:
        """What the stored pass was given, if it produced ``tensor`` and ``forward`` undoes it."""
        stored = self._pass
        if stored is None or self._forward == forward or not stored.produced(tensor):
            return None
        return stored.given

    def take_ladj(self, x: Tensor, y: Tensor) -> Tensor | None:
        """``log|det dy/dx|`` if the stored pass joined just these tensors; forgets the pass."""
        stored = self._pass
        if stored is None:
            return None
        given, produced = (x, y) if self._forward else (y, x)
        if stored.given is not given or not stored.produced(produced):
            return None
        ladj = stored.ladj if self._forward else -stored.ladj
        self.clear()
        return ladj
