"""Log-determinants of Hessians: exact, or estimated from products alone."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_nf._tracing import is_traced
from pyro_nf.nn._convex import Hessian
from pyro_nf.transforms._convex.solves import iterative_solver

_BY_ELIMINATION = 4  # up to this size a batched factorisation costs more than it saves


def exact_log_det(hessian: Hessian) -> Tensor:
    """Computes ``log det H`` ``(N,)`` from the matrices: O(D³) for each, beside forming them."""
    matrix = hessian.matrix()  # (N, D, D)
    if matrix.shape[-1] <= _BY_ELIMINATION:
        return _sum_of_log_pivots(matrix)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    total = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return torch.where(failed > 0, torch.nan, total)


def _sum_of_log_pivots(matrix: Tensor) -> Tensor:
    """Gaussian elimination, for all rows of the batch at once."""
    rest = matrix.movedim(0, -1)  # (D, D, N)
    total = torch.zeros_like(rest[0, 0])
    for _ in range(matrix.shape[-1]):
        pivot, column = rest[0, 0], rest[1:, 0]
        total = total + pivot.log()
        rest = rest[1:, 1:] - column[:, None] * (column / pivot)
    return total


def stochastic_log_det(hessian: Hessian, like: Tensor, *, probes: int, steps: int) -> Tensor:
    r"""Estimates ``log det H`` ``(N,)`` by stochastic Lanczos quadrature.

    With random signs z, :math:`E[z^\top (\log H) z] = \mathrm{tr} \log H = \log\det H`.

    1. **Value.** m steps of Lanczos' method give a tridiagonal T and
       :math:`z^\top (\log H) z ≈ |z|^2 e_1^\top (\log T) e_1`, Gauss' quadrature. Its variance for
       one probe is :math:`2 \sum_{i≠j} (\log H)_{ij}^2`. Its bias, from the quadrature, is of the
       sign of + (log's even derivatives are negative) and falls as
       :math:`((\sqrt κ - 1)/(\sqrt κ + 1))^{2m}` with the condition number κ; it is 0 if m = D.
    2. **Gradient.** :math:`∂ \log\det H = \mathrm{tr}(H^{-1} ∂H) = E[u^\top (∂H) z]` with
       :math:`u = H^{-1} z` by conjugate gradients: unbiased, whatever m. It is not the gradient
       of the value's estimate, which is never differentiated.
    3. The gradient is that of a Taylor series around the present H₀ whose value is 0,

       .. math:: u^\top (H - H_0) z - \tfrac12 u^\top (H - H_0) H_0^{-1} (H - H_0) z,

       so that second derivatives are unbiased too.

    Args:
        hessian: N positive definite matrices.
        like: A tensor ``(D, N)`` whose dtype and device the probes take.
        probes: Number of probes for each column, averaged.
        steps: Lanczos steps m.
    """
    frozen = hessian.detach()
    wanted = is_traced() or torch.is_grad_enabled()
    total = torch.zeros_like(like[0])
    for _ in range(probes):
        probe = torch.where(torch.rand_like(like) < 0.5, -1.0, 1.0).to(like.dtype)
        total = total + quadrature(frozen, probe, min(steps, like.shape[0]))
        if wanted:
            total = total + _taylor(hessian, frozen, probe)
    return total / probes


def _taylor(hessian: Hessian, frozen: Hessian, probe: Tensor) -> Tensor:
    """Zero, with the first two derivatives of ``probeᵀ log(H) probe`` in expectation."""
    solve = iterative_solver(frozen)
    solved = solve(probe)
    right, left = hessian.product(probe), hessian.product(solved)
    right, left = right - right.detach(), left - left.detach()
    return (solved * right).sum(0) - 0.5 * (left * solve(right)).sum(0)


@torch.no_grad()
def quadrature(hessian: Hessian, probe: Tensor, steps: int) -> Tensor:
    """Approximates ``probeᵀ log(H) probe`` ``(N,)`` by Lanczos' method, reorthogonalised.

    The eigenvalues of T make the host wait on an accelerator.

    Args:
        hessian: N positive definite matrices.
        probe: Shape ``(D, N)``.
        steps: Number of steps, at most D.
    """
    norm = torch.linalg.vector_norm(probe, dim=0)
    basis = [probe / norm]
    diagonal, beside = [], []
    for _ in range(steps):
        image = hessian.product(basis[-1])
        diagonal.append((image * basis[-1]).sum(0))
        spanned = torch.stack(basis)  # (steps so far, D, N)
        for _ in range(2):  # once is not enough where the first pass cancels
            image = image - (spanned * (spanned * image).sum(1, keepdim=True)).sum(0)
        length = torch.linalg.vector_norm(image, dim=0)
        # The probe may lie in a smaller invariant subspace: then the rest of T is cut off.
        found = length > 100 * torch.finfo(probe.dtype).eps * diagonal[-1]
        beside.append(torch.where(found, length, 0))
        basis.append(torch.where(found, image / length, 0))

    off = torch.stack(beside[:-1], -1) if steps > 1 else probe.new_zeros(probe.shape[1], 0)
    tridiagonal = torch.diag_embed(torch.stack(diagonal, -1))
    tridiagonal = tridiagonal + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    broken = ~tridiagonal.isfinite().all(-1).all(-1)
    unit = torch.eye(steps, dtype=probe.dtype, device=probe.device)
    nodes, vectors = torch.linalg.eigh(torch.where(broken[:, None, None], unit, tridiagonal))
    # No eigenvalue of H is below its strength, and those that were cut off have no weight.
    logs = torch.maximum(nodes, hessian.strength[:, None]).log()
    value = norm * norm * (vectors[:, 0, :].square() * logs).sum(-1)
    return torch.where(broken, torch.nan, value)
