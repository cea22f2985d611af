"""Gradients that can be taken once: a second derivative is an error, never a silent zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


class _Refuse(torch.autograd.Function):
    """The identity of a gradient, whose own gradient by any of its sources raises."""

    @staticmethod
    def forward(gradient: Tensor, *sources: Tensor) -> Tensor:
        del sources
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None: ...

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Tensor:
        raise RuntimeError(
            'A continuous layer with gradient="adjoint" or "checkpoint" was differentiated twice; '
            'its gradient has no derivative. Build it with gradient="backprop" for Hessians '
            "and Laplace approximations."
        )


def refuse_batched(gradient: Tensor) -> None:
    """Raises for many gradients at once, as with ``vectorize=True``."""
    if torch._C._functorch.is_legacy_batchedtensor(gradient):
        raise RuntimeError(
            'A continuous layer with gradient="adjoint" or "checkpoint" got a batch of gradients, '
            'and solves for one at a time. Build it with gradient="backprop", or take the '
            "Jacobian with vectorize=False."
        )


def once_differentiable(
    gradients: Sequence[Tensor | None], sources: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Gradients as they are, or, where a graph of them is being made, with one that raises.

    The graph leads back to all ``sources``: what autograd finds no way to is a zero to it.
    """
    if not torch.is_grad_enabled():
        return tuple(gradients)
    return tuple(None if g is None else _Refuse.apply(g.detach(), *sources) for g in gradients)
