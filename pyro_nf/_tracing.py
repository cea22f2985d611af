"""Whether tensors are being traced rather than computed: the one place that asks torch for it."""

from __future__ import annotations

import torch


def under_functorch() -> bool:
    """Whether a ``torch.func`` transform (vmap, grad, jvp, ...) is running."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def is_traced() -> bool:
    """Whether the code runs under ``torch.compile`` or a ``torch.func`` transform."""
    return torch.compiler.is_compiling() or under_functorch()
