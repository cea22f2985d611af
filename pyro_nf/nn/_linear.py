"""The linear layer of the dense networks: features lead, the context shifts, a mask may cut."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class LinearValues(NamedTuple):
    """The numbers of a linear layer for one context: ``weight @ x + shift``.

    Attributes:
        weight: shape ``(output_dim, input_dim)``, the mask already applied.
        shift: shape ``(output_dim, *context_batch)``: bias plus the context's term;
            ``(output_dim,)`` without a context.
    """

    weight: Tensor
    shift: Tensor


class Linear(nn.Module):
    r"""An affine map of the leading axis, :math:`(W \odot M) x + b + V c`.

    The context's term is computed once for each row of the context and broadcast in the sum.

    Args:
        input_dim: rows of x; 0 is allowed.
        output_dim: rows of the result.
        context_dim: length of the context's last axis; 0 for none.
        mask: shape ``(output_dim, input_dim)`` of zeros and ones, kept as a buffer; None for none.
        zero_init: whether all parameters start at 0, else uniform in ±1/√fan_in as ``nn.Linear``.
    """

    mask: Tensor | None

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *,
        context_dim: int = 0,
        mask: Tensor | None = None,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.input_dim, self.output_dim, self.context_dim = input_dim, output_dim, context_dim
        self.weight = nn.Parameter(torch.zeros(output_dim, input_dim))
        self.bias = nn.Parameter(torch.zeros(output_dim))
        self.context_weight = (
            nn.Parameter(torch.zeros(output_dim, context_dim)) if context_dim else None
        )
        self.register_buffer("mask", mask)
        if not zero_init:
            self._randomize()

    def _randomize(self) -> None:
        bound = 1 / math.sqrt(max(1, self.input_dim + self.context_dim))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def values(self, context: Tensor | None = None) -> LinearValues:
        """Reads the parameters, each once: attributes may be sampled anew at every access."""
        weight = self.weight if self.mask is None else self.weight * self.mask
        return LinearValues(weight, self.shift(context))

    def shift(self, context: Tensor | None) -> Tensor:
        """The bias plus the context's term: ``(output_dim, *context_batch)``."""
        if self.context_weight is None or context is None:
            return self.bias
        batch = context.shape[:-1]
        rows = context.reshape(math.prod(batch), self.context_dim)
        shift = torch.addmm(self.bias[:, None], self.context_weight, rows.t())
        return shift.reshape(self.output_dim, *batch)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps x ``(input_dim, *batch)`` to ``(output_dim, *batch)``, contiguous."""
        weight, shift = self.values(context)
        if shift.ndim == 1 and x.ndim == 2:
            return torch.addmm(shift.unsqueeze(1), weight, x)
        batch = x.shape[1:]
        rows = x.reshape(self.input_dim, math.prod(batch))
        return torch.addmm(spread(shift, batch), weight, rows).reshape(self.output_dim, *batch)

    def extra_repr(self) -> str:
        """Shows the sizes."""
        masked = "" if self.mask is None else ", masked"
        return f"{self.input_dim}, {self.output_dim}, context_dim={self.context_dim}{masked}"


def spread(shift: Tensor, batch: torch.Size) -> Tensor:
    """Broadcasts ``(features, *context_batch)``, aligned right, to ``(features, prod(batch))``.

    A view without context or where the batches agree; else one copy.
    """
    features, *context_batch = shift.shape
    lead = (1,) * (len(batch) - len(context_batch))
    shift = shift.reshape(features, *lead, *context_batch).expand(features, *batch)
    return shift.reshape(features, math.prod(batch))


def check_inputs(
    owner: str, x: Tensor, context: Tensor | None, input_dim: int, context_dim: int
) -> None:
    """Raises ``ValueError`` unless x is ``(input_dim, *batch)`` and the context fits."""
    if x.dim() == 0 or x.shape[0] != input_dim:
        raise ValueError(
            f"{owner}(input_dim={input_dim}) got x of shape {tuple(x.shape)}. "
            f"Pass x of shape ({input_dim}, *batch): features lead."
        )
    check_context(owner, context, context_dim)
    if context is not None and context.dim() > x.dim():
        raise ValueError(
            f"{owner} got a context of shape {tuple(context.shape)} for a batch of shape "
            f"{tuple(x.shape[1:])}. Expand x to the broadcast batch first."
        )


def check_context(owner: str, context: Tensor | None, context_dim: int) -> None:
    """Raises ``ValueError`` unless the context is present exactly if built in, and fits."""
    if context is None:
        if context_dim:
            raise ValueError(
                f"{owner} was built with context_dim={context_dim} and got no context. "
                f"Pass context of shape (*batch, {context_dim})."
            )
        return
    if context_dim == 0:
        raise ValueError(
            f"{owner} was built without a context and got one of shape {tuple(context.shape)}. "
            f"Build it with context_dim={context.shape[-1] if context.dim() else 1}, or pass none."
        )
    if context.dim() == 0 or context.shape[-1] != context_dim:
        raise ValueError(
            f"{owner}(context_dim={context_dim}) got a context of shape {tuple(context.shape)}. "
            f"Pass context of shape (*batch, {context_dim})."
        )
