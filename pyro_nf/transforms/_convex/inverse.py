"""The inverse of a gradient map, with the derivatives of the implicit function theorem."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pyro_nf._tracing import is_traced
from pyro_nf.bijections import Root
from pyro_nf.nn._convex import ConvexValues, Hessian, activations, gradient_at
from pyro_nf.transforms._convex.methods import LBFGS, Newton
from pyro_nf.transforms._convex.search import largest, minimise
from pyro_nf.transforms._convex.solves import Solver, cholesky_solver, iterative_solver

SolverName = Literal["newton", "lbfgs"]


def invert(
    values: ConvexValues, target: Tensor, solver: SolverName, root: Root | None, owner: str
) -> Tensor:
    r"""Solves :math:`∇F(x; θ) = y` for x, column by column, with a graph if one is wanted.

    The root x* is found without a graph. Derivatives come from Newton steps whose Hessian
    :math:`H` at x* counts as a constant,

    .. math:: x_{k+1} = x_k - H^{-1} (∇F(x_k; θ) - y), \qquad x_0 = x^*,

    whose value is the root. The first step has its first derivatives with respect to y and θ,
    those of the implicit function theorem; since H is constant, each further step makes one more
    order right. No Hessian is differentiated.

    Args:
        values: The network's numbers θ.
        target: y, shape ``(D, n)``.
        solver: "newton" factorises Hessians, "lbfgs" only multiplies by them.
        root: Budget and tolerance of the search; None for the defaults.
        owner: Who asks, for the message.

    Returns:
        x of shape ``(D, n)``; NaN where a number is not finite.

    Raises:
        ConvergenceError: If a column is not found within the budget.
    """
    x = search(values.detach(), target.detach(), solver, root, owner)
    wanted = torch.is_grad_enabled() and (target.requires_grad or values.requires_grad())
    if is_traced() or wanted:
        solve = _solver(solver, _gradient(values, x)[1])
        for _ in range(2):
            x = x - solve(_gradient(values, x)[0] - target)
    return x


@torch.compiler.disable  # the search is eager, and stops early, under a compiler too
@torch.no_grad()
def search(
    values: ConvexValues, target: Tensor, solver: SolverName, root: Root | None, owner: str
) -> Tensor:
    """Finds the roots ``(D, n)`` without a graph."""
    tolerance = None if root is None else root.tolerance
    if solver == "newton":
        x = minimise(values, target, Newton(tolerance), root.iterations if root else 100, owner)
    else:
        x = minimise(values, target, LBFGS(tolerance), root.iterations if root else 500, owner)
    return _polished(values, target, x, solver)


def _polished(values: ConvexValues, target: Tensor, x: Tensor, solver: SolverName) -> Tensor:
    """Newton steps from half of the digits to all, where they bring the residual down."""
    gradient, hessian = _gradient(values, x)
    for _ in range(2):
        new = x - _solver(solver, hessian)(gradient - target)
        new_gradient, hessian = _gradient(values, new)
        better = largest(new_gradient - target) < largest(gradient - target)
        x = torch.where(better, new, x)
        gradient = torch.where(better, new_gradient, gradient)
    return x


def _gradient(values: ConvexValues, x: Tensor) -> tuple[Tensor, Hessian]:
    return gradient_at(values, x, activations(values, x))


def _solver(name: SolverName, hessian: Hessian) -> Solver:
    return cholesky_solver(hessian.matrix()) if name == "newton" else iterative_solver(hessian)
