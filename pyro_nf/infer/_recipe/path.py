"""From several starts to the posterior's bulk: the best Gaussian along the way to each optimum."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]

_ITERATES = 40
_STEPS_BETWEEN = 5
_FORGET_AFTER = 20
_LEAST_RISE = 1e-3  # nats
_MOST_IDLE = 3
_ELBO_DRAWS = 64
_LARGEST_HESSIAN = 300
_PROBES = 64


@dataclass
class Bulk:
    """A Gaussian near the bulk of a posterior.

    Attributes:
        loc: Its mean, shape ``(D,)``, float64.
        scale_tril: Lower triangular factor of its covariance, shape ``(D, D)``.
        elbo: Its ELBO in nats, from 64 draws.
        optima: Where each start ended, shape ``(starts, D)``.
        optima_log_density: The log density there, shape ``(starts,)``.
    """

    loc: Tensor
    scale_tril: Tensor
    elbo: float = -math.inf
    optima: list[Tensor] = field(default_factory=list)
    optima_log_density: list[float] = field(default_factory=list)


def find_bulk(
    log_density: LogDensity, starts: Sequence[Tensor], generator: torch.Generator
) -> Bulk | None:
    """Follows L-BFGS from each start and keeps the Gaussian with the best ELBO on the way.

    Like Pathfinder, which takes its covariances from the optimiser's history; here they come from
    the Hessian itself, its eigenvalues by absolute value, so that a saddle serves too. An optimum
    alone may lie far from the mass: the best Gaussian is found before it. Several starts, because
    one may end in a wrong mode.

    Args:
        log_density: Maps ``(n, D)`` to ``(n,)``, in nats, differentiable.
        starts: Points of shape ``(D,)`` in float64.
        generator: Where the draws of the ELBO come from.

    Returns:
        The best Gaussian; None if no start has a finite density.

    References:
        Pathfinder: Parallel quasi-Newton variational inference (Zhang et al., 2022),
        arXiv:2108.03782.
    """
    best: Bulk | None = None
    ends: list[tuple[Tensor, float]] = []
    for start in starts:
        found = _follow(log_density, start, generator)
        if found is None:
            continue
        ends.append((found.optima[0], found.optima_log_density[0]))
        if best is None or found.elbo > best.elbo:
            best = found
    if best is not None:
        best.optima = [end for end, _ in ends]
        best.optima_log_density = [value for _, value in ends]
    return best


def _follow(log_density: LogDensity, start: Tensor, generator: torch.Generator) -> Bulk | None:
    """The best Gaussian along one path; None where the path has no finite density."""
    x = start.detach().clone().requires_grad_()
    best: Bulk | None = None
    optimizer = _lbfgs(x)
    value, idle = -math.inf, 0

    def closure() -> Tensor:
        loss = -log_density(x[None]).sum()
        (x.grad,) = torch.autograd.grad(loss, x)
        return loss

    for iterate in range(_ITERATES):
        if iterate and iterate % _FORGET_AFTER == 0:
            optimizer = _lbfgs(x)
        before = value
        try:
            optimizer.step(closure)
            point = x.detach().clone()
            if not bool(point.isfinite().all()):
                break
            value = float(log_density(point[None]).detach())
            # Where the density hardly rises the Gaussians are the same, and a Hessian is dear.
            idle = idle + 1 if value - before < _LEAST_RISE else 0
            if idle == _MOST_IDLE:
                break
            scale_tril = None if idle else _curvature(log_density, point)
            elbo = -math.inf
            if scale_tril is not None and math.isfinite(value):
                elbo = _gaussian_elbo(log_density, point, scale_tril, generator)
        except (ValueError, RuntimeError, IndexError):
            # A factorisation in the model that failed, say, or L-BFGS at a loss of NaN.
            break
        if scale_tril is not None and math.isfinite(value):
            end = point, value
            if best is None or elbo > best.elbo:
                best = Bulk(point, scale_tril, elbo)
        elif best is not None and math.isfinite(value):
            end = point, value
    if best is not None:
        best.optima, best.optima_log_density = [end[0]], [end[1]]
    return best


def _lbfgs(x: Tensor) -> torch.optim.LBFGS:
    return torch.optim.LBFGS(
        [x],
        max_iter=_STEPS_BETWEEN,
        history_size=20,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
    )


def _curvature(log_density: LogDensity, point: Tensor) -> Tensor | None:
    """A factor of the covariance that the Hessian at a point stands for; None if it is singular.

    In many dimensions the diagonal of the Hessian is estimated from random signs instead.
    """
    x = point.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(-log_density(x[None]).sum(), x, create_graph=True)
    if not gradient.requires_grad:  # linear in all of x
        return torch.eye(len(x)).to(x)
    if len(point) > _LARGEST_HESSIAN:
        return _diagonal_curvature(gradient, x)
    hessian = _hessian(gradient, x)
    if not bool(hessian.isfinite().all()):
        return None
    # Units may differ by many orders: scaled to a unit diagonal, the eigenvalues are comparable.
    units = hessian.diagonal().abs().clamp(min=1e-12).rsqrt()
    scaled = (hessian + hessian.T) / 2 * units[:, None] * units
    eigenvalues, vectors = torch.linalg.eigh(scaled)
    covariance = (vectors / eigenvalues.abs().clamp(min=1e-8)) @ vectors.T
    factor, failed = torch.linalg.cholesky_ex(covariance * units[:, None] * units)
    return None if bool(failed) else factor


def _hessian(gradient: Tensor, x: Tensor) -> Tensor:
    """The derivative of a gradient, all rows at once where the graph can be mapped."""
    directions = torch.eye(len(x)).to(x)
    try:
        return torch.autograd.grad(
            gradient, x, directions, retain_graph=True, is_grads_batched=True
        )[0]
    except RuntimeError:  # a custom function in the model without a rule for vmap
        rows = [torch.autograd.grad(gradient, x, d, retain_graph=True)[0] for d in directions]
        return torch.stack(rows)


def _diagonal_curvature(gradient: Tensor, x: Tensor) -> Tensor | None:
    generator = torch.Generator("cpu").manual_seed(0)
    total = torch.zeros_like(x)
    for _ in range(_PROBES):
        signs = torch.randint(0, 2, x.shape, generator=generator, device="cpu").to(x) * 2 - 1
        (product,) = torch.autograd.grad(gradient, x, signs, retain_graph=True)
        total += product * signs
    diagonal = (total / _PROBES).abs().clamp(min=1e-8)
    return diagonal.rsqrt().diag() if bool(diagonal.isfinite().all()) else None


@torch.no_grad()
def _gaussian_elbo(
    log_density: LogDensity, loc: Tensor, scale_tril: Tensor, generator: torch.Generator
) -> float:
    """The ELBO of a Gaussian from a few draws; what is not finite counts as very bad."""
    shape = _ELBO_DRAWS, len(loc)
    noise = torch.randn(shape, generator=generator, dtype=loc.dtype, device="cpu").to(loc.device)
    log_p = log_density(loc + noise @ scale_tril.T)
    entropy = scale_tril.diagonal().log().sum() + 0.5 * len(loc) * math.log(2 * math.pi)
    values = log_p + entropy + 0.5 * noise.square().sum(-1)
    return float(torch.nan_to_num(values, nan=-1e30, neginf=-1e30, posinf=-1e30).mean())
