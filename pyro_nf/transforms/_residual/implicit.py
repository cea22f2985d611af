"""The inverse's derivatives, by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from pyro_nf._tracing import is_traced
from pyro_nf.bijections import Root
from pyro_nf.transforms._residual.exact import plus_identity
from pyro_nf.transforms._residual.fixed_point import solve
from pyro_nf.transforms._residual.function import Columns, Contraction, linearized

LinearSolver = Callable[[Columns, Tensor], Tensor]

_LARGEST_FACTORED = 64  # dimensions up to which I + J is inverted; beyond, it is iterated


def is_factored(size: int) -> bool:
    """Whether the matrices I + J of this size are inverted, rather than their systems iterated."""
    return size <= _LARGEST_FACTORED


def invert(g: Contraction, v: Tensor, root: Root, owner: str) -> Tensor:
    r"""Solves :math:`u + g(u) = v` for u ``(D, columns)``, with derivatives.

    The root u* is found without a graph. Derivatives come from two steps at the root,

    .. math:: u ← u - (I + J(u^*))^{-1} (u + g(u) - v),

    whose values leave the root where it is. With the matrix held constant, the first step has the
    first derivatives of the inverse with respect to v and to all that g depends on, and each
    further step one order more: two are right for Hessians. Up to 64 dimensions the steps are
    plain arithmetic with the matrix inverted, which every tracer follows; beyond, the linear
    systems are fixed points themselves, forwards and backwards, in memory for one evaluation.

    Args:
        g: A function of columns with a Lipschitz constant below 1.
        v: Shape ``(D, columns)``.
        root: Budget and tolerance.
        owner: Who asks, for the message.

    Raises:
        ConvergenceError: As :func:`solve`.
    """
    u = solve(g, v, root, owner)
    if not (torch.is_grad_enabled() or is_traced()):
        return u
    factored = is_factored(len(v)) or is_traced()
    correct = _inverse_matrix(g, u) if factored else _resolvent(g, u, root, owner)
    for _ in range(2):
        u = u - correct(u + g(u) - v)
    return u


@torch.no_grad()
def _inverse_matrix(g: Contraction, at: Tensor) -> Columns:
    """The map r -> (I + J)⁻¹ r, by inverting the matrix of each column."""
    jacobian = g.with_jacobian(at)[1].detach()
    # Without a check of the result, for which the host would wait: I + J is never singular.
    inverse = torch.linalg.inv_ex(plus_identity(jacobian))[0]  # (columns, D, D)
    return lambda r: torch.matmul(inverse, r.mT.unsqueeze(-1)).squeeze(-1).mT


def _resolvent(g: Contraction, at: Tensor, root: Root, owner: str) -> Columns:
    """The map r -> (I + J)⁻¹ r for residuals r that are rounding: as good as r itself in value.

    Its derivative solves w + Jᵀ w = r for w by iteration, and has derivatives of every order.
    """
    with torch.no_grad():
        pull = linearized(g, at)[1]

    def push(w: Tensor) -> Tensor:
        return cast("Tensor", torch.func.jvp(g, (at,), (w,))[1])

    solve_with = partial(_solve_linear, root=root, owner=owner)
    return lambda r: cast("Tensor", _AtRoot.apply(r, push, pull, solve_with))


def _solve_linear(operator: Columns, r: Tensor, root: Root, owner: str) -> Tensor:
    """Solves w + operator(w) = r to the tolerance relative to each column's size."""
    size = r.norm(dim=0)
    size = torch.where(size > 0, size, 1)
    return size * solve(operator, r / size, root, owner)


class _AtRoot(torch.autograd.Function):
    """The identity in value, (I + J)⁻¹ in its derivatives, for a constant J given as functions."""

    generate_vmap_rule = True

    @staticmethod
    def forward(r: Tensor, push: Columns, pull: Columns, solve_with: LinearSolver) -> Tensor:
        """Returns r ``(D, columns)``."""
        del push, pull, solve_with
        return r.view_as(r)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps the operator and its transpose."""
        del output
        ctx.operator = inputs[1:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Solves the transposed system."""
        push, pull, solve_with = ctx.operator
        return _Resolvent.apply(grad, pull, push, solve_with), None, None, None


class _Resolvent(torch.autograd.Function):
    """Solves w + J w = r for a constant J given as functions; its derivative solves with Jᵀ."""

    generate_vmap_rule = True

    @staticmethod
    def forward(r: Tensor, push: Columns, pull: Columns, solve_with: LinearSolver) -> Tensor:
        """Solves the system ``(D, columns)``."""
        del pull
        return solve_with(push, r)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps the operator and its transpose."""
        del output
        ctx.operator = inputs[1:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Solves the transposed system."""
        push, pull, solve_with = ctx.operator
        return _Resolvent.apply(grad, pull, push, solve_with), None, None, None
