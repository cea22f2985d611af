"""Linear maps whose spectral norm is held below a limit."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["auto", "exact", "svd", "power"]

_LARGEST_EXACT = 512  # the smaller side, up to which the exact norm costs less than the layer
_POWER_ITERATIONS = 20
_POWER_MARGIN = 1.05


class NormLimit(nn.Module):
    r"""Scales a linear map to a spectral norm, :math:`W \min(1, c/\lVert W\rVert_2)` (abstract).

    Args:
        limit: The norm c that the result does not exceed.
        inputs: Number of values that the map reads.
        norm: "power" takes an estimate from below, times a margin of 5 %: 20 power iterations from
            a vector that is kept in a buffer and follows the weights. Anything else is a name for
            the exact norm.
    """

    vector: Tensor

    def __init__(self, limit: float, inputs: int, norm: str) -> None:
        super().__init__()
        self.limit, self.norm = limit, norm
        if norm == "power":
            # The start is the same in every process, and never orthogonal to all by design.
            generator = torch.Generator().manual_seed(0)
            start = torch.randn(inputs, generator=generator, device="cpu")
            self.register_buffer("vector", torch.tensor((start / start.norm()).tolist()))

    def exact(self, weight: Tensor) -> Tensor:
        """Computes the norm, or a bound from above; twice differentiable."""
        raise NotImplementedError

    def apply_to(self, weight: Tensor, right: Tensor) -> Tensor:
        """Applies the map to a flat vector."""
        raise NotImplementedError

    def apply_transposed(self, weight: Tensor, left: Tensor) -> Tensor:
        """Applies the transposed map to a flat vector."""
        raise NotImplementedError

    @property
    def steady(self) -> bool:
        """Whether the result depends on the weight alone."""
        return self.norm != "power"

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the scaled weight; differentiable."""
        if self.steady:
            norm = self.exact(weight)
        else:
            right = self._iterate(weight.detach())
            image = self.apply_to(weight, right)  # its derivative holds the vectors fixed
            norm = _POWER_MARGIN * image.square().sum().clamp(min=_tiny(image)).sqrt()
        # Not (limit / norm).clamp(max=1): at tiny norms the quotient's derivative overflows.
        return weight * (self.limit / norm.clamp(min=self.limit))

    @torch.no_grad()
    def refine(self, weight: Tensor) -> None:
        """Keeps the present singular vector as the start of the next power iteration."""
        if not self.steady:
            # In place: the buffer keeps its identity, and reuse sees its version change.
            self.vector.copy_(self._iterate(weight))

    @torch.no_grad()
    def _iterate(self, weight: Tensor) -> Tensor:
        """The right singular vector of the largest singular value, approximately."""
        right = self.vector.to(weight.dtype)
        for _ in range(_POWER_ITERATIONS):
            left = nn.functional.normalize(self.apply_to(weight, right), dim=0)
            right = nn.functional.normalize(self.apply_transposed(weight, left), dim=0)
        return right

    def extra_repr(self) -> str:
        """The limit and how the norm is found."""
        return f"limit={self.limit:.4g}, norm={self.norm!r}"


class SpectralLimit(NormLimit):
    """A limit of matrices.

    Args:
        shape: Rows and columns of W.
        limit: The norm that the result does not exceed.
        norm: "exact" or "svd" for the exact norm, "power" for its estimate. "auto" is "exact" up
            to 512 rows or columns, whichever are fewer.
    """

    def __init__(self, shape: tuple[int, int], limit: float, norm: Norm) -> None:
        small = min(shape) <= _LARGEST_EXACT
        chosen = ("exact" if small else "power") if norm == "auto" else norm
        super().__init__(limit, shape[1], chosen)

    def exact(self, weight: Tensor) -> Tensor:
        """Computes the norm."""
        return top_singular_value(weight)

    def apply_to(self, weight: Tensor, right: Tensor) -> Tensor:
        """Multiplies with the matrix."""
        return weight @ right

    def apply_transposed(self, weight: Tensor, left: Tensor) -> Tensor:
        """Multiplies with its transpose."""
        return weight.mT @ left


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
