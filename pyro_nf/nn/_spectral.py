"""Matrices whose spectral norm is held below a limit."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["auto", "svd", "power"]

_LARGEST_SVD = 512  # the smaller side, up to which the exact norm costs less than the layer
_POWER_ITERATIONS = 20
_POWER_MARGIN = 1.05


class SpectralLimit(nn.Module):
    r"""Scales a matrix down to a spectral norm: :math:`W \min(1, c/\lVert W\rVert_2)`.

    Args:
        shape: Rows and columns of W.
        limit: The norm c that the result does not exceed.
        norm: "svd" takes the exact norm. "power" takes an estimate from below, times a margin of
            5 %: 20 power iterations from a vector that is kept in a buffer and follows the
            weights. "auto" is "svd" up to 512 rows or columns, whichever are fewer.
    """

    vector: Tensor

    def __init__(self, shape: tuple[int, int], limit: float, norm: Norm) -> None:
        super().__init__()
        self.limit = limit
        small = min(shape) <= _LARGEST_SVD
        self.norm = ("svd" if small else "power") if norm == "auto" else norm
        if self.norm == "power":
            # The start is the same in every process, and never orthogonal to all by design.
            generator = torch.Generator().manual_seed(0)
            start = torch.randn(shape[1], generator=generator, device="cpu")
            self.register_buffer("vector", torch.tensor((start / start.norm()).tolist()))

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the scaled matrix; differentiable."""
        if self.norm == "svd":
            norm = top_singular_value(weight)
        else:
            right = self._iterate(weight.detach())
            image = weight @ right  # the norm's derivative, its singular vectors held fixed
            norm = _POWER_MARGIN * image.square().sum().clamp(min=_tiny(image)).sqrt()
        # Not (limit / norm).clamp(max=1): at tiny norms the quotient's derivative overflows.
        return weight * (self.limit / norm.clamp(min=self.limit))

    @torch.no_grad()
    def refine(self, weight: Tensor) -> None:
        """Keeps the present singular vector as the start of the next power iteration."""
        if self.norm == "power":
            # In place: the buffer keeps its identity, and reuse sees its version change.
            self.vector.copy_(self._iterate(weight))

    @torch.no_grad()
    def _iterate(self, weight: Tensor) -> Tensor:
        """The right singular vector of the largest singular value, approximately."""
        right = self.vector.to(weight.dtype)
        for _ in range(_POWER_ITERATIONS):
            left = nn.functional.normalize(weight @ right, dim=0)
            right = nn.functional.normalize(weight.mT @ left, dim=0)
        return right

    def extra_repr(self) -> str:
        """The limit and how the norm is found."""
        return f"limit={self.limit:.4g}, norm={self.norm!r}"


def top_singular_value(weight: Tensor) -> Tensor:
    r"""Computes the spectral norm of each matrix, twice differentiable.

    Torch's own singular values have second derivatives that are NaN where any two of them agree,
    as all do in a layer that starts at 0. Only the largest is wanted here:

    1. G is the Gram matrix of the smaller side, :math:`G q = λ q` its largest eigenpair, and
       :math:`R = \sum_j q_j q_j^\top / (λ - λ_j)` over the other pairs, all found without a graph.
    2. :math:`u = q + R G q` has the value of q and q's first derivative with respect to G.
    3. The Rayleigh quotient :math:`u^\top G u / u^\top u` is then right to third order.

    The eigenvalues make the host wait on an accelerator; "power" never does.

    Args:
        weight: Shape ``(*batch, rows, columns)``.

    Returns:
        Shape ``batch``; the square root of the smallest normal number for a zero matrix.
    """
    # G squares the entries, which may underflow or overflow: so the largest is made 1.
    largest = weight.detach().abs().amax((-2, -1))
    scale = torch.where(largest > 0, largest, 1)
    weight = weight / scale[..., None, None]
    gram = weight @ weight.mT if weight.shape[-2] <= weight.shape[-1] else weight.mT @ weight
    with torch.no_grad():
        values, vectors = torch.linalg.eigh(gram.detach())
        top, gaps = vectors[..., -1:], values[..., -1:] - values
        apart = gaps > torch.finfo(gaps.dtype).eps ** 0.5 * values[..., -1:]
        inverse_gaps = torch.where(apart, 1 / gaps, 0)[..., None]
    turned = top + vectors @ (inverse_gaps * (vectors.mT @ (gram @ top)))
    square = (turned * (gram @ turned)).sum((-2, -1)) / turned.square().sum((-2, -1))
    return scale * square.clamp(min=_tiny(square)).sqrt()


def _tiny(x: Tensor) -> float:
    return torch.finfo(x.dtype).tiny
