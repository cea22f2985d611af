"""Whether tensors are being traced rather than computed: the one place that asks torch for it."""

from __future__ import annotations

import torch
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
