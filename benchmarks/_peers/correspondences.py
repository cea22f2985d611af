"""How weights of layers without a conditioner of ours get into a peer's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_nf.distributions import Flow
from pyro_nf.transforms import BlockAutoregressive, Joint

_LARGEST_LOG_GAIN = 7.0


@torch.no_grad()
def adopt_planar(layers: Sequence[nn.Module], names: tuple[str, str, str], flow: Flow) -> None:
    """Takes over planar layers, base -> data.

    Both libraries map x to x + û tanh(wᵀx + b), we with 1 + wᵀû = a + √(1 + a²), a = wᵀu, the
    peers with softplus(wᵀu): their u differs from ours along w.

    Args:
        layers: The peer's layers.
        names: Its names of w, u and b.
        flow: Our flow.
    """
    joints = [part for part in flow.modules() if isinstance(part, Joint)]
    for mine, theirs in zip(joints, layers, strict=True):
        values: dict[str, Tensor] = dict(mine.named_parameters())
        w, u, b = values["weight"], values["scale"], values["bias"]
        a = w @ u
        along = torch.log(torch.expm1(a + torch.sqrt(1 + a.square())))
        u = u + (along - a) * w / w.square().sum()
        for name, value in zip(names, (w, u, b), strict=True):
            parameter = getattr(theirs, name)
            parameter.copy_(value.reshape(parameter.shape))


@torch.no_grad()
def adopt_blocks(layers: Sequence[Any], flow: Flow) -> None:
    """Takes over block networks, base -> data: Pyro keeps both kinds of weights in one matrix."""
    ours: list[Any] = [part for part in flow.modules() if isinstance(part, BlockAutoregressive)]
    for mine, theirs in zip(ours, layers, strict=True):
        gate = mine.network.gate
        gate.fill_(gate[0])  # Pyro has one for all dimensions
        theirs.gate.copy_(gate[:1])
        for source, target in zip(mine.network.layers, theirs.layers, strict=True):
            diagonal = torch.block_diag(*source.log_weight)
            target._weight.copy_(torch.where(target.mask_d > 0, diagonal, source.weight))
            gain = source.log_gain / (1 + source.log_gain.abs() / _LARGEST_LOG_GAIN)
            target._diag_weight.copy_(gain[:, None])
            target.bias.copy_(source.bias)
