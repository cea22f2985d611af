"""Planar maps: one tanh unit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_nf.bijections._root import Root, check_root
from pyro_nf.bijections._tanh_units import admissible, log_slope, positive, undo
from pyro_nf.bijections._vector import Params, VectorBijection


@dataclass(frozen=True)
class Planar(VectorBijection):
    r"""A push across a plane, one hidden unit of a residual network.

    .. math:: y = x + û \tanh(w^\top x + b), \qquad
        \log|\det dy/dx| = \log(1 + w^\top û \, \tanh'(w^\top x + b))

    It is invertible if :math:`w^\top û > -1`. So û is u with its part along w changed such that
    :math:`1 + w^\top û = a + \sqrt{1 + a^2}` with :math:`a = w^\top u`, which reaches every such
    û. (The softplus of the paper nears -1 exponentially fast: parameters of sensible size then
    give maps that cannot be inverted in floating point.)

    Base -> data costs O(D) a point. Data -> base is as exact: :math:`v = w^\top x + b` is the root
    of the increasing function :math:`v + w^\top û \tanh v = w^\top y + b`, found numerically with
    the gradients of the implicit function, and :math:`x = y - û \tanh v`.

    Parameters: ``weight`` w ``(D,)``, ``scale`` u ``(D,)``, ``bias`` b ``()``. A fresh map has
    u = 0: the identity.

    Args:
        root: How hard the inverse is searched for.

    Raises:
        TypeError: If ``root`` is no ``Root``.

    References:
        Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015), arXiv 1505.05770,
        section 4.1 and appendix A.1.

    Examples:
        >>> import torch
        >>> from pyro_nf.bijections import Planar
        >>> from pyro_nf.transforms import Joint
        >>> y, ladj = Joint(Planar(), 3).forward_and_ladj(torch.zeros(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    root: Root = Root()

    def __post_init__(self) -> None:
        """Checks the option."""
        check_root("Planar", self.root)

    def initial(self, input_dim: int) -> dict[str, Tensor]:
        """Creates a random weight of length about 1, and zeros."""
        return {
            "weight": torch.randn(input_dim) / math.sqrt(input_dim),
            "scale": torch.zeros(input_dim),
            "bias": torch.zeros(()),
        }

    def forward(self, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``x + û tanh(wᵀx + b)``."""
        weight, push, bias, slope = _coefficients(params)
        h = torch.tanh(weight @ x + bias)  # (*batch, 1, points)
        return x + push * h, log_slope(h, slope).squeeze(-2)

    def inverse(self, y: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``y - û tanh(v)`` with v the numerical root."""
        weight, push, bias, slope = _coefficients(params)
        v, ladj = undo(weight @ y + bias, slope, self.root, "Planar")
        return y - push * torch.tanh(v), ladj.squeeze(-2)


def _coefficients(params: Params) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The weight as a row, û as a column, b and 1 + wᵀû as ``(*batch, 1, 1)``."""
    weight, scale = params["weight"], params["scale"]  # (*batch, D)
    product = (weight * scale).sum(-1, keepdim=True)
    slope = positive(product)
    # A weight of 0 has no direction to push along; the square of the product vanishes faster.
    length = weight.square().sum(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    push = scale + admissible(product.square() / length, weight, product, slope)
    return weight[..., None, :], push[..., None], params["bias"][..., None, None], slope[..., None]
