"""Operations that know their own gradient: one node of the graph instead of many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_nf._recorded import must_record, recorded_gradient, without_autocast
from pyro_nf._tracing import is_traced

Tensors = tuple[Tensor, ...]
Grads = tuple[Tensor | None, ...]


class OwnGradient(Protocol):
    """A function of tensors with its gradient in closed form."""

    @property
    def evaluate(self) -> Callable[..., Tensors]:
        """Maps the inputs to the outputs, in plain differentiable operations."""

    @property
    def solve(self) -> Callable[..., tuple[Tensors, Tensors]]:
        """Maps the inputs, without a graph, to the outputs and what ``pull_back`` reads."""

    def pull_back(self, inputs: Tensors, saved: Tensors, grads: Tensors) -> Grads:
        """The gradient of each input, of the gradients of the outputs."""


def apply(operation: OwnGradient, *inputs: Tensor) -> Tensors:
    """Evaluates an operation, as one node where autograd alone follows.

    Tracers make their own backward, and forward mode, of plain operations; so do second and mapped
    gradients, for which the operation is evaluated anew.
    """
    if is_traced():
        return operation.evaluate(*inputs)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return _Node.apply(operation, *inputs)
    return operation.solve(*inputs)[0]


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, operation: OwnGradient, *inputs: Tensor) -> Tensors:
        outputs, saved = operation.solve(*inputs)
        ctx.operation, ctx.count = operation, len(inputs)
        ctx.save_for_backward(*inputs, *saved)
        return outputs

    @staticmethod
    @without_autocast
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        kept = ctx.saved_tensors  # once: where activations are recomputed, each read is a pass
        inputs, saved = kept[: ctx.count], kept[ctx.count :]
        if must_record(*grads):
            return None, *recorded_gradient(ctx.operation.evaluate, inputs, grads)
        return None, *ctx.operation.pull_back(inputs, saved, grads)
