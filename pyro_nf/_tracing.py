"""Whether tensors are traced rather than computed: the one place that asks torch for it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad


def under_functorch() -> bool:
    """Whether a ``torch.func`` transform (vmap, grad, jvp, ...) is running."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def is_compiled_or_mapped() -> bool:
    """Whether the code runs under ``torch.compile`` or a ``torch.func`` transform."""
    return torch.compiler.is_compiling() or under_functorch()


def is_traced() -> bool:
    """Whether anything but plain reverse mode follows the operations.

    Custom autograd functions step aside then: compilers, ``torch.func``, ``torch.jit.trace`` and
    forward mode differentiate plain operations themselves.
    """
    return is_compiled_or_mapped() or torch.jit.is_tracing() or forward_ad._current_level >= 0


def host_can_read(tensor: Tensor) -> bool:
    """Whether the host may look at a tensor's values: a search may then stop early, and raise.

    Not on an accelerator, where it would wait; nor in a compiled or recorded program or under
    ``vmap``, where one course must serve all values.
    """
    if tensor.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return all(level.key() != TransformType.Vmap for level in get_interpreter_stack() or ())
