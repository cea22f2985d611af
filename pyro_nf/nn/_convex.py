"""A strongly convex potential, its gradient and its Hessian in closed form, column by column.

Everything is plain arithmetic on matrices ``(features, N)`` with one row of the batch in each
column: it compiles, maps and differentiates again, without a call of autograd inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus


class ConvexValues(NamedTuple):
    r"""The numbers of a convex network for given contexts; H_k units in hidden layer k of K.

    .. math::
        F(x) = \frac{α}{2} |x|^2 + t^\top x + v^\top s(a_K), \quad
        a_k = A_k x + b_k + P_k s(a_{k-1})

    Attributes:
        weights: A_1, ..., A_K, each ``(H_k, D)``.
        mixers: P_2, ..., P_K, each ``(H_k, H_{k-1})`` and ≥ 0.
        shifts: b_1, ..., b_K, each ``(H_k, N)``, or ``(H_k, 1)`` if the same in every column.
        output: v ≥ 0, ``(H_K, N)`` or ``(H_K, 1)``.
        tilt: t, ``(D, N)`` or ``(D, 1)``.
        strength: α > 0, ``(N,)`` or ``(1,)``.
    """

    weights: tuple[Tensor, ...]
    mixers: tuple[Tensor, ...]
    shifts: tuple[Tensor, ...]
    output: Tensor
    tilt: Tensor
    strength: Tensor

    def detach(self) -> ConvexValues:
        """The same numbers without a graph."""
        detached = [tuple(part.detach() for part in parts) for parts in self[:3]]
        return ConvexValues._make((*detached, *(part.detach() for part in self[3:])))

    def columns(self, index: Tensor) -> ConvexValues:
        """The numbers of some columns."""

        def chosen(part: Tensor) -> Tensor:
            return part if part.shape[-1] == 1 else part.index_select(-1, index)

        shifts = tuple(chosen(shift) for shift in self.shifts)
        columns = (chosen(self.output), chosen(self.tilt), chosen(self.strength))
        return ConvexValues(self.weights, self.mixers, shifts, *columns)

    def requires_grad(self) -> bool:
        """Whether a gradient of any of the numbers is wanted."""
        every = (*self.weights, *self.mixers, *self.shifts, *self[3:])
        return any(part.requires_grad for part in every)


class Hessian(NamedTuple):
    r"""A Hessian by its factors, :math:`α I + \sum_k J_k^\top \mathrm{diag}(w_k) J_k`.

    :math:`J_k = ∂a_k/∂x` follows from :math:`J_k = A_k + P_k \mathrm{diag}(s'_{k-1}) J_{k-1}`.

    Attributes:
        strength: α, ``(N,)`` or ``(1,)``.
        weights: A_k, each ``(H_k, D)``.
        mixers: P_k for k ≥ 2, each ``(H_k, H_{k-1})``.
        slopes: s′(a_k) for k < K, each ``(H_k, N)``.
        bends: w_k ≥ 0, each ``(H_k, N)``.
    """

    strength: Tensor
    weights: tuple[Tensor, ...]
    mixers: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]
    bends: tuple[Tensor, ...]

    def matrix(self) -> Tensor:
        """The matrices ``(N, D, D)``: O(D H² + D² H) for each column."""
        first = self.weights[0].t()  # (D, H_1)
        size, rows = first.shape[0], self.bends[0].shape[1]
        # The first layer's Jacobian is the same for all columns: one product makes all terms.
        squares = (first[:, None, :] * first).reshape(size * size, -1)  # (D², H_1)
        total = (self.bends[0].t() @ squares.t()).reshape(rows, size, size)
        total = total + torch.diag_embed(self.strength[:, None].expand(-1, size))
        jacobian = first.expand(rows, *first.shape)  # (N, D, H)
        for weight, mixer, slope, bend in zip(
            self.weights[1:], self.mixers, self.slopes, self.bends[1:], strict=True
        ):
            jacobian = (jacobian * slope.t()[:, None, :]) @ mixer.t() + weight.t()
            total = total + (jacobian * bend.t()[:, None, :]) @ jacobian.mT
        return total

    def product(self, vectors: Tensor) -> Tensor:
        """The products with ``(D, N)``, one vector for each column: O(D H + H²) for each."""
        tangent = self.weights[0] @ vectors  # J_k v
        bent = [tangent * self.bends[0]]
        for weight, mixer, slope, bend in zip(
            self.weights[1:], self.mixers, self.slopes, self.bends[1:], strict=True
        ):
            tangent = torch.addmm(weight @ vectors, mixer, slope * tangent)
            bent.append(tangent * bend)

        total, back = self.strength * vectors, bent[-1]
        for k in range(len(bent) - 1, 0, -1):
            total = torch.addmm(total, self.weights[k].t(), back)
            back = bent[k - 1] + self.slopes[k - 1] * (self.mixers[k - 1].t() @ back)
        return torch.addmm(total, self.weights[0].t(), back)

    def detach(self) -> Hessian:
        """The same factors without a graph."""
        return self.unflat([part.detach() for part in self.flat()])

    def flat(self) -> list[Tensor]:
        """All factors in one list."""
        return [self.strength, *self.weights, *self.mixers, *self.slopes, *self.bends]

    @staticmethod
    def unflat(parts: Sequence[Tensor]) -> Hessian:
        """Undoes :meth:`flat`."""
        layers = (len(parts) + 1) // 4
        ends = (1, 1 + layers, 2 * layers, 3 * layers - 1)
        weights, mixers, slopes, bends = (
            tuple(parts[start:stop])
            for start, stop in zip(ends, (*ends[1:], len(parts)), strict=True)
        )
        return Hessian(parts[0], weights, mixers, slopes, bends)


def activations(values: ConvexValues, x: Tensor) -> list[Tensor]:
    """What every hidden unit receives, a_1, ..., a_K, each ``(H_k, N)``."""
    pre = [torch.addmm(values.shifts[0], values.weights[0], x)]
    for k, mixer in enumerate(values.mixers, start=1):
        own = torch.addmm(values.shifts[k], values.weights[k], x)
        pre.append(torch.addmm(own, mixer, _unit(pre, k - 1)))
    return pre


def potential_at(values: ConvexValues, x: Tensor, pre: list[Tensor]) -> Tensor:
    """F ``(N,)`` at x, given what :func:`activations` found there."""
    quadratic = 0.5 * values.strength * (x * x).sum(0)
    units = values.output * _unit(pre, len(pre) - 1)
    return quadratic + (values.tilt * x).sum(0) + units.sum(0)


def gradient_at(
    values: ConvexValues, x: Tensor, pre: list[Tensor], spans: list[Tensor] | None = None
) -> tuple[Tensor, Hessian]:
    """∇F ``(D, N)`` and the Hessian's factors at x, given :func:`activations`.

    With ``spans`` d ≥ 0, one for each of ``pre``, the curvature of a unit is its mean over
    [a − d, a + d] instead of s″(a): a Hessian for steps of this length.
    """
    total = values.strength * x + values.tilt
    back = values.output  # ∂F/∂s(a_k)
    slopes, bends = [], []
    for k in range(len(pre) - 1, -1, -1):
        logistic = torch.sigmoid(pre[k])
        slope = logistic - 0.5 if k == 0 else logistic
        curvature = logistic * (1 - logistic)
        if spans is not None:
            curvature = _mean_curvature(pre[k], spans[k], curvature)
        bends.append(back * curvature)
        slopes.append(slope)
        received = back * slope  # ∂F/∂a_k
        total = torch.addmm(total, values.weights[k].t(), received)
        if k > 0:
            back = values.mixers[k - 1].t() @ received
    inner = tuple(reversed(slopes[1:]))
    return total, Hessian(
        values.strength, values.weights, values.mixers, inner, tuple(reversed(bends))
    )


def _unit(pre: list[Tensor], k: int) -> Tensor:
    """The units of layer k: softplus, made symmetric in the first layer.

    There the argument is affine, so that convexity is enough; above, a unit must increase too.
    """
    # By default torch's softplus breaks off at 20, with an error of 2e-9 in value and slope.
    unit = softplus(pre[k], threshold=40.0)
    return unit - 0.5 * pre[k] if k == 0 else unit


def _mean_curvature(pre: Tensor, span: Tensor, at_center: Tensor) -> Tensor:
    """The mean of softplus″ over [pre − span, pre + span]."""
    short = span < 0.01  # there the difference is rounding, and the center is right
    span = torch.where(short, 1, span)
    rise = torch.sigmoid(pre + span) - torch.sigmoid(pre - span)
    return torch.where(short, at_center, torch.clamp(rise / (2 * span), min=0))
