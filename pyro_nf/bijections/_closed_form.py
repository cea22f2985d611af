"""Scalar bijections with their gradient in closed form: one node of the graph instead of many."""

from __future__ import annotations

from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor

from pyro_nf._recorded import must_record, recorded_gradient, without_autocast
from pyro_nf._tracing import is_traced
from pyro_nf.bijections._base import ScalarBijection
from pyro_nf.bijections._elements import flat_elements

Direction = Literal["forward", "inverse"]
Saved = tuple[Tensor, ...]


class ClosedForm(ScalarBijection):
    """A scalar bijection that differentiates itself (abstract).

    Everything here works on flat elements: values ``(n,)``, parameters ``(rows, n)``.
    """

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` of shape S with parameters (param_count, *S); returns y and log|dy/dx|."""
        return self._map(x, params, "forward")

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``y`` of shape S with parameters (param_count, *S); returns x and log|dx/dy|."""
        return self._map(y, params, "inverse")

    def _map(self, value: Tensor, params: Tensor, direction: Direction) -> tuple[Tensor, Tensor]:
        flat, raw, dtype = flat_elements(self, value, params)
        # Tracers make their own backward, and forward mode, of plain operations.
        if is_traced():
            result, ladj = self.evaluate(flat, raw, direction)
        elif torch.is_grad_enabled() and (flat.requires_grad or raw.requires_grad):
            result, ladj = BijectionNode.apply(self, flat, raw, direction)
        else:
            result, ladj, _ = self.solve(flat, raw, direction)
        return result.view(value.shape).to(dtype), ladj.view(value.shape).to(dtype)

    def evaluate(
        self, value: Tensor, params: Tensor, direction: Direction
    ) -> tuple[Tensor, Tensor]:
        """The map and its log-derivative in plain differentiable operations."""
        raise NotImplementedError

    def solve(
        self, value: Tensor, params: Tensor, direction: Direction
    ) -> tuple[Tensor, Tensor, Saved]:
        """The same without a graph, and what :meth:`pull_back` reads of it."""
        raise NotImplementedError

    def solve_into(self, y: Tensor, params: Tensor, x: Tensor, ladj: Tensor) -> None:
        """Writes the inverse and its log-derivative into ``x`` and ``ladj``, without a graph."""
        result, log_derivative, _ = self.solve(y, params, "inverse")
        x.copy_(result)
        ladj.copy_(log_derivative)

    def pull_back(
        self, saved: Saved, grad: Tensor, ladj_grad: Tensor, direction: Direction
    ) -> tuple[Tensor, Tensor]:
        """The gradients of the values and the parameters, in tensors of their own."""
        raise NotImplementedError


def is_closed_form(bijection: ScalarBijection, dtype: torch.dtype) -> TypeGuard[ClosedForm]:
    """Whether the bijection differentiates itself, as its class says, on elements of this type."""
    kind = type(bijection)
    return (
        isinstance(bijection, ClosedForm)
        and dtype in (torch.float32, torch.float64)
        and kind.forward is ClosedForm.forward
        and kind.inverse is ClosedForm.inverse
    )


class BijectionNode(torch.autograd.Function):
    """A closed-form bijection in the graph."""

    @staticmethod
    def forward(
        ctx: Any, bijection: ClosedForm, value: Tensor, params: Tensor, direction: Direction
    ) -> tuple[Tensor, Tensor]:
        result, ladj, saved = bijection.solve(value, params, direction)
        ctx.bijection, ctx.direction = bijection, direction
        ctx.save_for_backward(value, params, *saved)
        return result, ladj

    @staticmethod
    @without_autocast
    def backward(ctx: Any, grad: Tensor, ladj_grad: Tensor) -> tuple[Tensor | None, ...]:
        bijection, direction = ctx.bijection, ctx.direction
        value, params, *saved = ctx.saved_tensors
        if must_record(grad, ladj_grad):

            def record(value: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
                return bijection.evaluate(value, params, direction)

            grads = recorded_gradient(record, (value, params), (grad, ladj_grad))
            return None, *grads, None
        grads = bijection.pull_back(tuple(saved), grad, ladj_grad, direction)
        return None, *grads, None
