"""Radial maps: towards a point or away from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_nf.bijections._tanh_units import positive
from pyro_nf.bijections._vector import Params, VectorBijection


@dataclass(frozen=True)
class Radial(VectorBijection):
    r"""A contraction or expansion around a centre c, by a factor that depends on the distance.

    .. math:: y = x + \frac{β}{α + r} (x - c) = c + \frac{r + α s}{r + α} (x - c), \qquad
        r = |x - c|, \quad s = 1 + β/α

    .. math:: \log|\det dy/dx| = (D - 1) \log\frac{r + αs}{r + α}
        + \log\frac{r^2 + 2αr + α^2 s}{(r + α)^2}

    It is invertible if β > -α; in terms of s, the factor at the centre, if s > 0. Both the
    distance α and s are kept positive by :math:`a + \sqrt{1 + a^2}` of their parameters. Far from
    the centre the map is the identity.

    Either direction is closed form at O(D) a point. With ρ = |y - c|, the inverse takes the
    positive root of :math:`r^2 + (αs - ρ) r - αρ = 0`.

    Parameters: ``origin`` c ``(D,)``, ``raw_radius`` ``()`` of α and ``raw_factor`` ``()`` of s. A
    fresh map has s = 1: the identity.

    Warning:
        The log-determinant has a kink at the centre, where its gradient is taken to be 0.

    References:
        Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015), arXiv 1505.05770,
        section 4.1 and appendix A.2.

    Examples:
        >>> import torch
        >>> from pyro_nf.bijections import Radial
        >>> from pyro_nf.transforms import Joint
        >>> y, ladj = Joint(Radial(), 3).forward_and_ladj(torch.zeros(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def initial(self, input_dim: int) -> dict[str, Tensor]:
        """Creates a random centre, and zeros."""
        return {
            "origin": torch.randn(input_dim),
            "raw_radius": torch.zeros(()),
            "raw_factor": torch.zeros(()),
        }

    def forward(self, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``x`` to ``c + (x - c)(r + αs)/(r + α)``."""
        origin, radius, factor = _coefficients(params)
        offset = x - origin[..., None]
        r = torch.linalg.vector_norm(offset, dim=-2)  # (*batch, points)
        ratio = (r + radius * factor) / (r + radius)
        y = origin[..., None] + offset * ratio[..., None, :]
        return y, _ladj(x.shape[-2], r, ratio, radius, factor)

    def inverse(self, y: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Maps ``y`` to ``c + (y - c)(r + α)/(r + αs)``, r by a quadratic equation."""
        origin, radius, factor = _coefficients(params)
        offset = y - origin[..., None]
        r = _distance(torch.linalg.vector_norm(offset, dim=-2), radius, factor)
        ratio = (r + radius * factor) / (r + radius)
        x = origin[..., None] + offset / ratio[..., None, :]
        return x, -_ladj(y.shape[-2], r, ratio, radius, factor)


def _coefficients(params: Params) -> tuple[Tensor, Tensor, Tensor]:
    """The centre ``(*batch, D)``, α and s as ``(*batch, 1)``."""
    radius, factor = positive(params["raw_radius"]), positive(params["raw_factor"])
    return params["origin"], radius[..., None], factor[..., None]


def _distance(rho: Tensor, radius: Tensor, factor: Tensor) -> Tensor:
    """The r ≥ 0 that the map takes to ρ; no difference of near numbers, no quotient by zero."""
    q = rho - radius * factor
    size = torch.where(q >= 0, q, -q)
    larger = (size + torch.sqrt(q.square() + 4 * radius * rho)) / 2  # of the two roots' sizes
    return torch.where(q >= 0, larger, radius * rho / larger)


def _ladj(size: int, r: Tensor, ratio: Tensor, radius: Tensor, factor: Tensor) -> Tensor:
    along = (r.square() + 2 * radius * r + radius.square() * factor) / (r + radius).square()
    return (size - 1) * ratio.log() + along.log()
