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
    """Terms of the curve inside a bin (eq. 4 and 5), each ``(n,)``.

    The numerators are polynomials with positive coefficients in z and 1 - z. De Casteljau's means
    of means evaluate them without cancellation, and their difference is the derivative.
    """

    inside: Tensor  # 1 inside the box, 0 in the tails
    z: Tensor  # relative position, 0 at the left knot and 1 at the right one
    u: Tensor  # z (1 - z)
    s: Tensor  # height / width
    t: Tensor  # d0 + d1 - 2 s
    inv_den: Tensor  # 1 / (s + t u)
    low: Tensor  # d0 (1 - z) + s z
    high: Tensor  # s (1 - z) + d1 z
    rise: Tensor  # (y - y0) / height = z low / (s + t u)
    bend: Tensor  # d1 z² + 2 s u + d0 (1 - z)² = low (1 - z) + high z
    slope: Tensor  # dy/dx = (s / (s + t u))² bend


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
    width, height = cell.sizes.unbind(0)
    d0, d1 = cell.slopes.unbind(0)
    s = height / width
    z = (clamped - cell.start[axis]) / (height if axis else width)
    if direction == "inverse":
        z = _root(z, s, d0, d1)
    u = torch.addcmul(z, z, z, value=-1)
    t = torch.sub(d0 + d1, s, alpha=2)
    inv_den = torch.addcmul(s, t, u).reciprocal()
    low, high = torch.lerp(d0, s, z), torch.lerp(s, d1, z)
    bend = torch.lerp(low, high, z)
    rise = z * low * inv_den
    slope = (s * inv_den).square() * bend
    inside = (value == clamped).to(z.dtype)
    return cell, _Curve(inside, z, u, s, t, inv_den, low, high, rise, bend, slope)


def _root(rise: Tensor, s: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
    """Solves for the relative position ``z`` of the relative height ``rise``.

    With r = rise and e = d0 (1 - r) - d1 r, the quadratic equation (eq. 6-8), divided by height²,
    has b = e + 2 s r and the discriminant e² + 4 s² r (1 - r): a sum of squares, which cannot turn
    negative and loses no digits. The sign of e tells which form of the root does not cancel.
    """
    e = torch.addcmul(d0, d0 + d1, rise, value=-1)
    s2 = s + s
    below, above = s2 * rise, s2 * (1 - rise)
    p = e.abs() + torch.sqrt(torch.addcmul(below * above, e, e))
    left = e >= 0
    top = torch.where(left, below, p)
    return top / (top + torch.where(left, p, above))


def _result(
    value: Tensor, cell: Cell, curve: _Curve, direction: Direction
) -> tuple[Tensor, Tensor]:
    ladj = curve.slope.log() * curve.inside
    if direction == "inverse":
        result, ladj = torch.addcmul(cell.start[0], cell.sizes[0], curve.z), -ladj
    else:
        result = torch.addcmul(cell.start[1], cell.sizes[1], curve.rise)
    return torch.where(curve.inside > 0, result, value), ladj


def solve(
    value: Tensor, params: Tensor, box: Box, direction: Direction
) -> tuple[Tensor, Tensor, Saved]:
    """Maps flat values without a graph, and keeps the bin and the terms of the curve."""
    cell, curve = _solve(value, params, box, direction)
    return *_result(value, cell, curve, direction), (*curve, *cell)


def pull_back(
    saved: Saved, grad: Tensor, ladj_grad: Tensor, box: Box, direction: Direction
) -> tuple[Tensor, Tensor]:
    """The gradients of the values and the parameters.

    The inverse's gradient is the forward map's. With x = f⁻¹(y; p) and log|dx/dy| = -l(x; p), an
    upstream (g_x, g_ladj) becomes G = g_x - g_ladj ∂l/∂x, then G / f' for y, and for p what the
    forward map makes of the upstream (-G / f', -g_ladj).
    """
    split = len(_Curve._fields)
    curve, cell = _Curve(*saved[:split]), Cell(*saved[split:])
    value_grad, bin_grads, slope_grads = _gradient(cell, curve, grad, ladj_grad, direction)
    return value_grad, _params_gradient(box, cell, bin_grads, slope_grads)


def _gradient(
    cell: Cell, curve: _Curve, g_result: Tensor, g_ladj: Tensor, direction: Direction
) -> tuple[Tensor, Tensor, Tensor]:
    """Creates the gradients of the values, and of their bins.

    Returns:
        That of the values ``(n,)``; of the left knot and the sizes (at a fixed left knot), x and
        y of each, ``(2, 2, n)``; of the slopes ``(2, n)``.
    """
    inside, z, u, s, t, inv_den, low, high, rise, bend, slope = curve
    width, height = cell.sizes.unbind(0)
    axis = 1 if direction == "inverse" else 0
    bin_grads, slope_grads = z.new_empty(2, 2, z.numel()), torch.empty_like(cell.slopes)
    (left_x, left_y), (size_x, size_y) = (g.unbind(0) for g in bin_grads.unbind(0))
    g_d0, g_d1 = slope_grads.unbind(0)
    given, made = (left_y, left_x) if axis else (left_x, left_y)

    g_in = torch.mul(g_result, inside, out=made)
    g_l = g_ladj * inside
    if axis:
        g_l.neg_()
    # ladj = 2 log s + log bend - 2 log den, each a function of z, s, d0, d1.
    g_bend, g_den = g_l / bend, g_l * inv_den
    w = 1 - z
    half_gl_z = ((high - low).mul_(g_bend)).addcmul_(t * (w - z), g_den, value=-1)
    if axis:
        g_value = torch.addcdiv(g_in, half_gl_z, width, value=2).div_(slope)
    else:
        g_value = (g_in * slope).addcdiv_(half_gl_z, width, value=2)
    torch.neg(g_value, out=given)

    g_rise = (left_y * height).mul_(inv_den)
    z2, w2 = z.square(), w.square_()
    m = (g_rise * rise).add_(g_den, alpha=2)
    q = z2 + w2  # ∂den/∂s
    g_s = (g_rise * z2).addcmul_(q, m, value=-1)
    g_s.addcmul_(u, g_bend, value=2).addcdiv_(g_l, s, value=2)
    torch.mul(w2, g_bend, out=g_d0).addcmul_(u, g_rise.sub_(m))
    torch.mul(z2, g_bend, out=g_d1).addcmul_(u, m, value=-1)
    g_s.div_(width)
    torch.mul(left_x, z, out=size_x).addcmul_(g_s, s, value=-1)
    torch.addcmul(g_s, left_y, rise, out=size_y)
    return torch.lerp(g_result, g_value, inside), bin_grads, slope_grads


def _params_gradient(box: Box, cell: Cell, bin_grads: Tensor, slope_grads: Tensor) -> Tensor:
    """Creates the gradient ``(rows, n)`` of the raw parameters from that of the selected bin.

    A share moves the left knot if its bin lies left of the selected one, and the size if it is
    the selected one. The softmax's inner product Σ share · gradient needs no sum over bins: the
    sums of shares are the left knot and the size, less what every bin has without its share.
    """
    bins, n, least = box.bins, cell.bin.numel(), box.least_length
    share_left = torch.add(cell.start + box.bound, cell.bin, alpha=-least)
    inner = bin_grads[0] * share_left
    inner.addcmul_(bin_grads[1], cell.sizes - least).neg_()
    # The length that the softmax shares out: inner has it already.
    g_left, g_size = (bin_grads * box.shared_length).unsqueeze(2).unbind(0)  # (2, 1, n)
    result = inner.new_empty(box.slope_rows.stop, n)
    g_shares = result[: 2 * bins].view(2, bins, n)
    inner = inner.unsqueeze(1)
    torch.addcmul(inner, cell.passed, g_left, out=g_shares[:, :-1])
    g_shares[:, -1:].copy_(inner)
    g_shares.scatter_add_(1, cell.bin.expand(2, 1, n), g_size)
    g_shares.mul_(cell.shares)
    g_raw = torch.sigmoid(cell.raw_slopes).mul_(slope_grads).mul_(cell.interior)
    result[box.slope_rows].zero_().scatter_add_(0, cell.slope_rows, g_raw)
    return result
