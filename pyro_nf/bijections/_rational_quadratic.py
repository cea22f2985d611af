"""The maths of the rational-quadratic spline on flat elements, with its closed-form gradient.

Notation of Durkan et al. (2019, arXiv 1906.04032): s is a bin's secant, d0 and d1 the slopes at
its left and right knot, z the relative position in it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_nf.bijections._closed_form import Direction, Saved
from pyro_nf.bijections._knots import Box, Cell, locate


class _Curve(NamedTuple):
    """Terms of the curve inside a bin (eq. 4 and 5), each ``(n,)``."""

    inside: Tensor  # 1 inside the box, 0 in the tails
    z: Tensor  # relative position, 0 at the left knot and 1 at the right one
    z2: Tensor  # z²
    m2: Tensor  # (1 - z)²
    u: Tensor  # z (1 - z)
    width: Tensor
    height: Tensor
    s: Tensor  # height / width
    t: Tensor  # d0 + d1 - 2 s
    inv_den: Tensor  # 1 / (s + t u)
    rise: Tensor  # (y - y0) / height
    bend: Tensor  # d1 z² + 2 s u + d0 (1 - z)²
    slope: Tensor  # dy/dx


def evaluate(
    value: Tensor, params: Tensor, box: Box, direction: Direction
) -> tuple[Tensor, Tensor]:
    """Maps flat values by plain differentiable operations; returns them and the log-derivative."""
    return _result(value, *_solve(value, params, box, direction), direction)


def _solve(value: Tensor, params: Tensor, box: Box, direction: Direction) -> tuple[Cell, _Curve]:
    """Finds the bin of each value, and the position in it."""
    axis = 1 if direction == "inverse" else 0
    clamped = value.clamp(-box.bound, box.bound)
    cell = locate(box, clamped, params, axis)
    width, height = (cell.corners[:, 1] - cell.corners[:, 0]).unbind(0)
    d0, d1 = cell.slopes.unbind(0)
    s = height / width
    z = (clamped - cell.corners[axis, 0]) / (height if axis else width)
    if direction == "inverse":
        z = _root(z, s, d0, d1)
    z2, m2 = z.square(), (1 - z).square()
    u = z - z2
    t = torch.sub(d0 + d1, s, alpha=2)
    inv_den = torch.addcmul(s, t, u).reciprocal()
    rise = torch.addcmul(s * z2, d0, u) * inv_den
    bend = torch.addcmul(d1 * z2, d0, m2).addcmul(s, u, value=2)
    slope = (s * inv_den).square() * bend
    inside = (value == clamped).to(z.dtype)
    return cell, _Curve(inside, z, z2, m2, u, width, height, s, t, inv_den, rise, bend, slope)


def _root(rise: Tensor, s: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
    """Solves for the relative position ``z`` of the relative height ``rise``.

    With r = rise and e = d0 (1 - r) - d1 r, the quadratic equation (eq. 6-8), divided by height²,
    has b = e + 2 s r and the discriminant e² + 4 s² r (1 - r): a sum of squares, which cannot turn
    negative and loses no digits. The sign of e tells which form of the root does not cancel.
    """
    e = torch.addcmul(d0, d0 + d1, rise, value=-1)
    root = torch.sqrt(e.square() + 4 * s.square() * (rise * (1 - rise)))
    p = e.abs() + root
    left = e >= 0
    top = torch.where(left, 2 * s * rise, p)
    return top / (top + torch.where(left, p, 2 * s * (1 - rise)))


def _result(
    value: Tensor, cell: Cell, curve: _Curve, direction: Direction
) -> tuple[Tensor, Tensor]:
    ladj = curve.slope.log() * curve.inside
    if direction == "inverse":
        result, ladj = torch.addcmul(cell.corners[0, 0], curve.width, curve.z), -ladj
    else:
        result = torch.addcmul(cell.corners[1, 0], curve.height, curve.rise)
    return torch.where(curve.inside > 0, result, value), ladj


def solve(
    value: Tensor, params: Tensor, box: Box, direction: Direction
) -> tuple[Tensor, Tensor, Saved]:
    """Maps flat values without a graph, and keeps the bin and the terms of the curve."""
    cell, curve = _solve(value, params, box, direction)
    return *_result(value, cell, curve, direction), (*cell, *curve)


def pull_back(
    saved: Saved, grad: Tensor, ladj_grad: Tensor, box: Box, direction: Direction
) -> tuple[Tensor, Tensor]:
    """The gradients of the values and the parameters.

    The inverse's gradient is the forward map's. With x = f⁻¹(y; p) and log|dx/dy| = -l(x; p), an
    upstream (g_x, g_ladj) becomes G = g_x - g_ladj ∂l/∂x, then G / f' for y, and for p what the
    forward map makes of the upstream (-G / f', -g_ladj).
    """
    split = len(Cell._fields)
    cell, curve = Cell(*saved[:split]), _Curve(*saved[split:])
    value_grad, *bin_grads = _gradient(cell, curve, grad, ladj_grad, direction)
    return value_grad, _params_gradient(box, cell, *bin_grads)


def _gradient(
    cell: Cell, curve: _Curve, g_result: Tensor, g_ladj: Tensor, direction: Direction
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Creates the gradients of the values and of their bins' left knots, sizes and slopes.

    The first is ``(n,)``, the others are ``(2, n)``.
    """
    inside, z, z2, m2, u, width, height, s, t, inv_den, rise, bend, slope = curve
    d0, d1 = cell.slopes.unbind(0)
    g_in, g_l = g_result * inside, g_ladj * inside
    if direction == "inverse":
        g_l = -g_l
    # ladj = 2 log s + log bend - 2 log den, each a function of z, s, d0, d1.
    g_bend, g_den = g_l / bend, g_l * inv_den
    v = torch.rsub(z, 1, alpha=2)  # 1 - 2 z
    bend_z = torch.addcmul(d1 * z, s, v).addcmul(d0, z - 1)
    gl_z = 2 * torch.addcmul(bend_z * g_bend, t * v, g_den, value=-1)
    if direction == "inverse":
        g_value = torch.addcdiv(g_in, gl_z, width) / slope
        g_x, g_y, g_z = -g_in, -g_value, -g_in * width
    else:
        g_z = torch.addcmul(gl_z, g_in * width, slope)
        g_value = g_z / width
        g_x, g_y = g_value, g_in
    g_rise = g_y * height * inv_den
    q = torch.rsub(u, 1, alpha=2)  # ∂den/∂s
    gl_s = torch.addcmul(g_l / s, u, g_bend).addcmul(q, g_den, value=-1)
    g_s = torch.addcmul(2 * gl_s, g_rise, torch.addcmul(z2, rise, q, value=-1))
    both = u * torch.addcmul(2 * g_den, g_rise, rise)
    g_d0 = torch.addcmul(m2 * g_bend, u, g_rise) - both
    g_d1 = z2 * g_bend - both
    g_left = torch.stack([-g_x, g_y])
    # A size counts at a fixed left knot.
    g_size = torch.stack(
        [torch.addcmul(g_s * s, g_z, z) / -width, torch.addcdiv(g_y * rise, g_s, width)]
    )
    return torch.lerp(g_result, g_value, inside), g_left, g_size, torch.stack([g_d0, g_d1])


def _params_gradient(
    box: Box, cell: Cell, g_left: Tensor, g_size: Tensor, g_slopes: Tensor
) -> Tensor:
    """Creates the gradient ``(rows, n)`` of the raw parameters from that of the selected bin.

    A share moves the left knot if its bin lies left of the selected one, and the size if it is
    the selected one. The softmax's inner product Σ share · gradient needs no sum over bins: the
    sums of shares are the left knot and the size, less what every bin has without its share.
    """
    n, length, least = cell.bin.numel(), box.shared_length, box.least_length
    start, end = cell.corners.unbind(1)
    share_left = start + box.bound - cell.bin.to(start.dtype) * least
    inner = torch.addcmul(g_left * share_left, g_size, end - start - least)
    # Allocated once, holding 1 left of the selected bin, and worked on in place from there.
    passed = cell.passed.to(start.dtype)
    none = torch.zeros_like(g_size[:1])
    slope_count = box.slope_rows.stop - box.slope_rows.start
    result = torch.cat([passed, none, passed, none.expand(1 + slope_count, n)])
    bins = result[: 2 * box.bins].view(2, box.bins, n)
    bins.mul_((g_left * length).unsqueeze(1))
    bins.scatter_add_(1, cell.bin.expand(2, 1, n), (g_size * length).unsqueeze(1))
    bins.sub_(inner.unsqueeze(1)).mul_(cell.shares)
    g_raw = g_slopes * torch.sigmoid(cell.raw_slopes)
    if not box.free_ends:
        g_raw = g_raw * cell.interior
    result[box.slope_rows].scatter_add_(0, cell.slope_rows, g_raw)
    return result
