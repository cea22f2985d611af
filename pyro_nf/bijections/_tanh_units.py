r"""The increasing function behind planar and Sylvester maps.

Both add multiples of tanh(v) to x, with v affine in x; in terms of v each unit is

.. math:: f(v; p) = v + (p - 1) \tanh v, \qquad f'(v) = \tanh^2 v + p \, \mathrm{sech}^2 v,

which increases from one end of ℝ to the other exactly if its slope p at 0 is positive. The slope
is a sum of two positive terms: nothing cancels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_nf.bijections._root import Root, invert


def positive(raw: Tensor) -> Tensor:
    r"""The smooth map of ℝ onto (0, ∞), :math:`a + \sqrt{1 + a^2}`, with value and slope 1 at 0.

    Unlike exp and softplus it nears 0 no faster than 1/(2|a|), so that no parameter of sensible
    size makes a map that cannot be inverted in floating point.
    """
    return torch.exp(torch.asinh(raw))  # the sum itself would cancel for negative a


def admissible(square: Tensor, direction: Tensor, product: Tensor, slope: Tensor) -> Tensor:
    r"""What to add to a raw scale u so that 1 + wᵀû is the slope :func:`positive` (wᵀu).

    One unit is x + û tanh(wᵀx + b), increasing if 1 + wᵀû > 0. With p the slope and c the part of
    u along w,

    .. math:: û - u = \frac{p - 1 - w^\top u}{|w|^2} w = \frac{c^2}{1 + p - w^\top u} w,
        \qquad p - w^\top u = \sqrt{1 + (w^\top u)^2}

    Args:
        square: c², the squared part of u along w.
        direction: w, or a number in one dimension.
        product: wᵀu.
        slope: p.

    Returns:
        û - u, of the shape of ``direction``.
    """
    return direction * (square / (1 + slope - product))


def log_slope(h: Tensor, slope: Tensor) -> Tensor:
    """The logarithm of f' where tanh v = h."""
    # Torch's lerp starts from the nearer end, so that nothing cancels whatever the slope.
    return torch.lerp(slope, torch.ones_like(slope), h.square()).log()


def undo(z: Tensor, slope: Tensor, root: Root, owner: str) -> tuple[Tensor, Tensor]:
    """Solves ``f(v; slope) = z``.

    Args:
        z: Any shape.
        slope: p, broadcasts to the shape of z.
        root: How hard to search.
        owner: Who asks, for the message.

    Returns:
        v and -log f'(v), of the shape of z.
    """
    slopes = slope.expand(z.shape).reshape(1, z.numel())
    v, ladj = invert(_unit, z.reshape(z.numel()), slopes, root, owner)
    return v.reshape(z.shape), ladj.reshape(z.shape)


def _unit(v: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    h = torch.tanh(v)
    return v + (params[0] - 1) * h, log_slope(h, params[0])
