"""The matrix of permuted triangles and signs, with its gradient in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class PLUProduct:
    r"""The matrix :math:`W = P B V` with :math:`B = e^s (I + L)` and :math:`V = (I + U) σ`.

    L, U and s are packed into one matrix of factors, the triangles times √C. Thirty operations on
    a matrix of the size of the channels: one node of the graph. With G the gradient of PᵀW, that
    of B is G Vᵀ and that of V is Bᵀ G.
    """

    def evaluate(
        self, factors: Tensor, permutation: Tensor, signs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Multiplies the factors.

        Args:
            factors: L below the diagonal, s on it, U above it, ``(C, C)``.
            permutation: The row of BV that each row of W is, ``(C,)``.
            signs: σ, ``(C,)``.

        Returns:
            W, ``(C, C)``, and its log-determinant, a scalar.
        """
        _, scaled, upper = self._parts(factors, signs)
        return (scaled @ upper).index_select(0, permutation), factors.diagonal().sum()

    def solve(
        self, factors: Tensor, permutation: Tensor, signs: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]:
        """The same without a graph, and the factors."""
        scale, scaled, upper = self._parts(factors, signs)
        weight = (scaled @ upper).index_select(0, permutation)
        return (weight, factors.diagonal().sum()), (scale, scaled, upper)

    def pull_back(
        self, inputs: tuple[Tensor, ...], saved: tuple[Tensor, ...], grads: tuple[Tensor, ...]
    ) -> tuple[Tensor, None, None]:
        """The gradient of the factors."""
        (_, permutation, signs), (scale, scaled, upper), (grad, log_det_grad) = (
            inputs,
            saved,
            grads,
        )
        rows = torch.empty_like(grad).index_copy_(0, permutation, grad)
        scaled_grad = rows @ upper.t()
        upper_grad = (scaled.t() @ rows).mul_(signs)
        mixing = (scaled_grad * scale).tril_(-1).add_(upper_grad.triu_(1))
        mixing.div_(math.sqrt(len(grad)))
        mixing.diagonal().copy_((scaled_grad * scaled).sum(1) + log_det_grad)
        return mixing, None, None

    @staticmethod
    def _parts(factors: Tensor, signs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """e^s ``(C, 1)``, B and V."""
        eye = torch.eye(len(factors), dtype=factors.dtype, device=factors.device)
        mixing = factors / math.sqrt(len(factors))
        scale = factors.diagonal().exp()[:, None]
        return scale, scale * (mixing.tril(-1) + eye), (mixing.triu(1) + eye) * signs
