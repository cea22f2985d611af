"""A linear layer of a vector field: its output depends on the time, and on a context."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from pyro_nf.nn._linear import spread

TimeConditioning = Literal["concatsquash", "concat", "none"]


class Affine(NamedTuple):
    """A layer at one time: ``(weight @ h) * scale + shift``.

    Attributes:
        weight: Shape ``(output_dim, input_dim)``.
        shift: Shape ``(output_dim, columns)`` or ``(output_dim, 1)``.
        scale: Shape ``(output_dim, columns)``. None for 1: a scale that all columns share is in
            the weight, which is the smaller.
    """

    weight: Tensor
    shift: Tensor
    scale: Tensor | None

    def __call__(self, h: Tensor) -> Tensor:
        """Maps h ``(input_dim, columns)``."""
        if self.scale is None:
            return torch.addmm(self.shift, self.weight, h)
        return torch.addcmul(self.shift, self.weight @ h, self.scale)


class TimeLinear(nn.Module):
    r"""An affine map of the leading axis whose shift and scale depend on time and context.

    - "concat": :math:`W h + b + t w + V c`, the time as one more input;
    - "concatsquash": :math:`(W h + b) \odot \sigma(g + t u + G c) + t w + V c`;
    - "none": :math:`W h + b + V c`.

    Args:
        input_dim: Rows of h.
        output_dim: Rows of the result.
        time: How the time enters.
        context_dim: Size of the context c; 0 for none.
        gain: Spread of the initial weights, in units of 1/√fan_in; with 0 the result starts at 0.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *,
        time: TimeConditioning,
        context_dim: int = 0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        fan_in = input_dim + context_dim + (time != "none")
        bound = gain * math.sqrt(3 / fan_in)  # of a uniform distribution of spread gain/√fan_in

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))

        self.sizes = input_dim, output_dim, context_dim
        self.time = time
        self.weight = parameter(output_dim, input_dim)
        self.bias = parameter(output_dim)
        self.time_weight = None if time == "none" else parameter(output_dim)
        self.context_weight = parameter(output_dim, context_dim) if context_dim else None
        squash = time == "concatsquash"
        self.gate_bias = nn.Parameter(torch.zeros(output_dim)) if squash else None
        self.gate_time = nn.Parameter(torch.zeros(output_dim)) if squash else None
        self.gate_context = (
            nn.Parameter(torch.zeros(output_dim, context_dim)) if squash and context_dim else None
        )

    def read(self, name: str, context: Tensor | None, batch: torch.Size) -> dict[str, Tensor]:
        """Reads the numbers of one solve, under names that begin with ``name``.

        Args:
            name: The layer's, unique in the network.
            context: Shape ``(*context_batch, context_dim)``, or None.
            batch: The batch of h.
        """
        values = {f"{name}.weight": self.weight, f"{name}.bias": self.bias[:, None]}
        if self.context_weight is not None and context is not None:
            term = _term(self.context_weight, context, batch)
            if self.gate_bias is None:
                values[f"{name}.bias"] = values[f"{name}.bias"] + term
            else:  # which scales the bias and not the term
                values[f"{name}.shift"] = term
        if self.time_weight is not None:
            values[f"{name}.time"] = self.time_weight[:, None]
        if self.gate_bias is not None and self.gate_time is not None:
            gate = self.gate_bias[:, None]
            if self.gate_context is not None and context is not None:
                gate = gate + _term(self.gate_context, context, batch)
            values[f"{name}.gate"] = gate
            values[f"{name}.gate_time"] = self.gate_time[:, None]
        return values

    @staticmethod
    def at(values: dict[str, Tensor], name: str, t: Tensor) -> Affine:
        """The layer at a time, without dimensions or one for each column, ``(columns,)``."""
        weight, shift = values[f"{name}.weight"], values[f"{name}.bias"]
        time = values.get(f"{name}.time")
        if f"{name}.gate" not in values:
            return Affine(weight, shift if time is None else torch.addcmul(shift, time, t), None)
        gate, gate_time = values[f"{name}.gate"], values[f"{name}.gate_time"]
        scale = torch.sigmoid(torch.addcmul(gate, gate_time, t))
        shift = torch.addcmul(values[f"{name}.time"] * t, shift, scale)
        if f"{name}.shift" in values:
            shift = shift + values[f"{name}.shift"]
        if scale.shape[1] == 1:
            return Affine(weight * scale, shift, None)
        return Affine(weight, shift, scale)

    def extra_repr(self) -> str:
        """Shows the sizes."""
        inputs, outputs, context = self.sizes
        return f"{inputs}, {outputs}, time={self.time!r}, context_dim={context}"


def _term(weight: Tensor, context: Tensor, batch: torch.Size) -> Tensor:
    """``weight @ c`` for each column of the batch, computed once for each row of the context."""
    rows = context.reshape(math.prod(context.shape[:-1]), context.shape[-1])
    return spread((weight @ rows.t()).reshape(len(weight), *context.shape[:-1]), batch)
