"""Gradients that can be taken once: a second derivative is an error, never a silent zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


class _Refuse(torch.autograd.Function):
    """The identity, whose gradient raises."""

    @staticmethod
    def forward(gradient: Tensor) -> Tensor:
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


def once_differentiable(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Gradients as they are, or, where a graph of them is being made, with one that raises."""
    if not torch.is_grad_enabled():
        return gradients
    return tuple(
        None if gradient is None else _Refuse.apply(gradient.detach().requires_grad_())
        for gradient in gradients
    )
