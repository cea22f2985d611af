"""The numbers of a block network and the two ways of evaluating them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_nf._tracing import is_traced
from pyro_nf.nn._block_stage import activate
from pyro_nf.nn._monotone import Monotone, softplus

BlockResidual = Literal["normal", "gated"] | None

# Without a graph, columns are evaluated in parts whose units, 4 bytes each, fit in a core's cache.
_CACHED_UNITS = 2**18


class LayerValues(NamedTuple):
    """The numbers of one linear layer: ``weight @ h + shift``.

    Attributes:
        weight: Shape ``(D * b, D * a)``, block lower triangular.
        shift: Shape ``(D * b, N)``, or ``(D * b, 1)`` for all columns alike.
        blocks: Shape ``(D, b, a)``, the positive diagonal blocks of ``weight``.
    """

    weight: Tensor
    shift: Tensor
    blocks: Tensor


class BlockValues(NamedTuple):
    """The numbers of a block network and the functions between its layers.

    Attributes:
        activation: The increasing activation.
        residual: How the input is added to the last layer's output.
        layers: The linear layers' numbers.
        gate: Shape ``(D, 1)``, the raw gate; None unless ``residual`` is "gated".
    """

    activation: Monotone
    residual: BlockResidual
    layers: Sequence[LayerValues]
    gate: Tensor | None

    @property
    def is_onto(self) -> bool:
        """Whether the range is all of ℝ in every dimension."""
        return self.residual is not None or self.activation.onto or len(self.layers) == 1

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, in the order that :meth:`with_tensors` takes."""
        gate = () if self.gate is None else (self.gate,)
        return (*(tensor for layer in self.layers for tensor in layer), *gate)

    def with_tensors(self, tensors: Sequence[Tensor]) -> BlockValues:
        """Creates the same network of other tensors."""
        count = 3 * len(self.layers)
        layers = [LayerValues(*tensors[i : i + 3]) for i in range(0, count, 3)]
        gate = None if self.gate is None else tensors[count]
        return BlockValues(self.activation, self.residual, layers, gate)

    def columns(self, start: int, stop: int) -> BlockValues:
        """Creates the network of some columns alone."""
        layers = [
            layer
            if layer.shift.shape[1] == 1
            else layer._replace(shift=layer.shift[:, start:stop])
            for layer in self.layers
        ]
        return self._replace(layers=layers)


def evaluate(values: BlockValues, u: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluates a block network and the diagonal of its Jacobian.

    Args:
        values: The network's numbers.
        u: Shape ``(D, N)``.

    Returns:
        v and log ∂v_d/∂u_d, both ``(D, N)``.
    """
    widest = max(layer.weight.shape[0] for layer in values.layers)
    size = max(64, _CACHED_UNITS // widest)
    whole = torch.is_grad_enabled() or is_traced() or u.device.type != "cpu"
    if whole or u.shape[1] <= 2 * size:
        return _evaluate(values, u)
    starts = range(0, u.shape[1], size)
    parts = [_evaluate(values.columns(i, i + size), u[:, i : i + size]) for i in starts]
    v, log_slope = zip(*parts, strict=True)
    return torch.cat(v, 1), torch.cat(log_slope, 1)


def _evaluate(values: BlockValues, u: Tensor) -> tuple[Tensor, Tensor]:
    r"""One pass.

    The slope of unit i of block d by :math:`u_d` obeys
    :math:`s'_{di} = a'(p_{di}) \sum_j W_{dij} s_{dj}`: matrix products of positive numbers along
    the diagonal blocks. Each block carries the logarithm of a common scale, so that nothing
    underflows where units saturate, and a product needs one exponential for each unit instead of
    one for each weight and column.
    """
    dim = u.shape[0]
    h, log_scale = u, torch.zeros_like(u)
    slopes: Tensor | None = None  # (D, b, N), once there is a layer
    for layer in values.layers[:-1]:
        pre = torch.addmm(layer.shift, layer.weight, h).unflatten(0, (dim, -1))  # (D, b, N)
        given = layer.blocks.expand_as(pre) if slopes is None else torch.bmm(layer.blocks, slopes)
        units, slopes, scale = activate(values.activation, pre, given)
        h, log_scale = units.flatten(0, 1), log_scale + scale.squeeze(1)
    last = values.layers[-1]
    f = torch.addmm(last.shift, last.weight, h)
    given = last.blocks if slopes is None else torch.bmm(last.blocks, slopes)
    log_slope = given.squeeze(1).log() + log_scale
    return _with_residual(values, u, f, log_slope)


def _with_residual(
    values: BlockValues, u: Tensor, f: Tensor, log_slope: Tensor
) -> tuple[Tensor, Tensor]:
    if values.residual is None:
        return f, log_slope
    if values.gate is None:
        return u + f, softplus(log_slope)
    # log(σ + (1 - σ) eˡ) = log σ + softplus(l - gate), for (1 - σ) / σ = exp(-gate).
    gated = F.logsigmoid(values.gate) + softplus(log_slope - values.gate)
    return torch.lerp(f, u, torch.sigmoid(values.gate)), gated
