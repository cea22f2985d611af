"""Gradients by ordinary autograd, for custom functions whose own backward cannot be followed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from pyro_nf._tracing import under_functorch


def must_record(*grads: Tensor | None) -> bool:
    """Whether a backward is itself differentiated or mapped, so that it has to be ordinary."""
    return torch.is_grad_enabled() or any(_is_mapped(grad) for grad in grads if grad is not None)


def _is_mapped(grad: Tensor) -> bool:
    # torch.autograd.grad(is_grads_batched=True) maps by the older machinery, below functorch.
    return under_functorch() or torch._C._functorch.is_legacy_batchedtensor(grad)


def without_autocast(
    backward: Callable[..., tuple[Tensor | None, ...]],
) -> Callable[..., tuple[Tensor | None, ...]]:
    """Decorates a backward: an autocast around it must not reach products of what is saved."""

    @wraps(backward)
    def run(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kind = grads[0].device.type
        if kind == "meta" or not torch.is_autocast_enabled(kind):
            return backward(ctx, *grads)
        with torch.autocast(kind, enabled=False):
            return backward(ctx, *grads)

    return run


def recorded_gradient(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    output_grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Evaluates a function anew under autograd and pulls gradients back through it.

    The result may be differentiated again, if gradients are being recorded where this is called.

    Args:
        function: Takes the inputs, returns its outputs in the order of their gradients.
        inputs: Its arguments, all tensors.
        output_grads: The gradient of each output; None for one that is not wanted.

    Returns:
        The gradient of each input, None where it needs none.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: the gradient for one input must not run on into another that it came from.
        inputs = [tensor.view_as(tensor) for tensor in inputs]
        outputs = function(*inputs)
        needed = [tensor for tensor in inputs if tensor.requires_grad]
        # An output that depends on nothing (the ladj of a shift, say) cannot be asked.
        asked = [
            (output, grad)
            for output, grad in zip(outputs, output_grads, strict=True)
            if output.requires_grad and grad is not None
        ]
        if not asked:
            return [None] * len(inputs)
        found = iter(
            torch.autograd.grad(
                [output for output, _ in asked],
                needed,
                [grad for _, grad in asked],
                create_graph=create_graph,
                allow_unused=True,
            )
        )
    return [next(found) if tensor.requires_grad else None for tensor in inputs]
