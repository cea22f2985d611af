"""How weights of our conditioners get into a peer's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pyro_nf.distributions import Flow
from pyro_nf.transforms import Autoregressive, Coupling


@torch.no_grad()
def randomize(module: nn.Module, seed: int) -> None:
    """Moves the parameters away from a fresh start, at which every flow is the identity."""
    generator = torch.Generator("cpu").manual_seed(seed)
    for parameter in module.parameters():
        fan_in = math.prod(parameter.shape[1:]) if parameter.ndim > 1 else 10
        # In float64 whatever the dtype, so that both precisions have the same numbers.
        noise = torch.randn(
            parameter.shape, generator=generator, dtype=torch.float64, device="cpu"
        )
        parameter.add_((0.3 / math.sqrt(fan_in) * noise).to(parameter))


def layers_of(flow: Flow) -> list[Coupling | Autoregressive]:
    """The layers with conditioners, base -> data."""
    return [part for part in flow.modules() if isinstance(part, (Coupling, Autoregressive))]


Layout = Callable[[Tensor], Tensor]


def parameters_first(index: Tensor) -> Tensor:
    """Lists ``(parameters, features)`` as ours does: all features of one parameter together."""
    return index.flatten()


def features_first(index: Tensor) -> Tensor:
    """Lists all parameters of one feature together."""
    return index.t().flatten()


@dataclass
class Conditioner:
    """A peer's network.

    Args:
        linears: Its linear layers, input to output.
        inputs: Which of our inputs lies at each of its positions.
        rows: Which of our outputs lies at each of its positions.
    """

    linears: Sequence[nn.Module]
    inputs: Tensor
    rows: Tensor

    @torch.no_grad()
    def adopt(self, layer: Coupling | Autoregressive) -> None:
        """Takes over weights, biases and, of masked networks, the masks."""
        network = layer.network
        ours = [*network.hidden, network.output]
        for number, (mine, theirs) in enumerate(zip(ours, self.linears, strict=True)):
            rows = self.rows if number == len(ours) - 1 else slice(None)
            columns = self.inputs if number == 0 else slice(None)
            cast("Tensor", theirs.weight).copy_(mine.weight[rows][:, columns])
            cast("Tensor", theirs.bias).copy_(mine.bias[rows])
            if getattr(mine, "mask", None) is not None:
                cast("Tensor", theirs.mask).copy_(mine.mask[rows][:, columns])


def conditioner(
    linears: Sequence[nn.Module],
    inputs: Sequence[int] | Tensor,
    moved: Sequence[int] | Tensor,
    params: int,
    layout: Layout,
) -> Conditioner:
    """Creates the correspondence of a network.

    Args:
        linears: The peer's linear layers, input to output.
        inputs: Which of our network's inputs lies at each of its positions.
        moved: The same of the features that it makes parameters for.
        params: Parameters for each feature.
        layout: How the peer lists them.
    """
    moved = torch.as_tensor(moved, device="cpu")
    index = torch.arange(params * len(moved), device="cpu").view(params, len(moved))
    return Conditioner(linears, torch.as_tensor(inputs, device="cpu"), layout(index[:, moved]))


def adopt(conditioners: Sequence[Conditioner], flow: Flow) -> None:
    """Takes over all conditioners' weights; the conditioners are listed as our layers are."""
    for one, layer in zip(conditioners, layers_of(flow), strict=True):
        one.adopt(layer)


def linears_of(module: nn.Module) -> list[nn.Module]:
    """The linear layers of a network, in the order in which it registered them."""
    return [part for part in module.modules() if isinstance(getattr(part, "weight", None), Tensor)]
