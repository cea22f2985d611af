"""Glow in pyro_nf."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks._peers.contender import Model
from benchmarks._peers.images_architecture import ImageSpec
from benchmarks._peers.ours import as_model
from pyro_nf.bijections import Affine, ScalarBijection
from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.nn import ConvNet
from pyro_nf.transforms import (
    ActNorm2d,
    Coupling2d,
    FlowTransform,
    InvertibleConv1x1,
    MultiLevel,
    Unsqueeze,
)
from pyro_nf.transforms._images.image_transform import IMAGES

MakeStep = Callable[[ImageSpec, int, int], list[FlowTransform]]


def model(spec: ImageSpec) -> Model:
    """Creates our flow as it is timed."""
    return as_model(flow(spec))


def own_step(
    spec: ImageSpec, channels: int, seed: int, bijection: ScalarBijection | None = None
) -> list[FlowTransform]:
    """Creates a step as our named flow has it, base -> data.

    Args:
        spec: The architecture.
        channels: Channels of the step's images.
        seed: Seed of the convolution's rotation.
        bijection: What stands in for our own scalar bijection.
    """
    return [
        coupling(spec, channels, Affine() if bijection is None else bijection),
        InvertibleConv1x1(channels, seed=seed).inv,
        ActNorm2d(channels),
    ]


def coupling(spec: ImageSpec, channels: int, bijection: ScalarBijection) -> Coupling2d:
    """Creates the coupling of a step."""
    network = partial(ConvNet, hidden_channels=(spec.hidden, spec.hidden))
    return Coupling2d(bijection, channels, network=network)


def flow(
    spec: ImageSpec, step: MakeStep = own_step, *, ends: Sequence[FlowTransform] = ()
) -> Flow:
    """Creates our flow.

    Args:
        spec: The architecture.
        step: Makes the layers of a step, base -> data.
        ends: What each level but the last does at its base end, before its image is parted.
    """
    levels: list[list[FlowTransform]] = []
    for level, (channels, _, _) in enumerate(spec.squeezed):
        layers = [] if level == spec.levels - 1 else [*ends]
        for number in range(spec.steps):
            layers += step(spec, channels, level * spec.steps + number)
        levels.append([*layers, Unsqueeze()])
    return Flow(DiagonalNormal(spec.size), MultiLevel(spec.shape, levels, prior=None))


class Step(NamedTuple):
    """The layers of one step, and their numbers as others keep them.

    Attributes:
        normalisation: Its activation normalisation.
        convolution: Its 1×1 convolution.
        network: Its coupling's network.
    """

    normalisation: ActNorm2d
    convolution: InvertibleConv1x1
    network: ConvNet

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        """The network's, input to output."""
        return [*(layer.conv for layer in self.network.hidden), self.network.output.conv]

    @property
    def offset(self) -> Tensor:
        """What the data have at 0 on the base side, ``(C,)``."""
        part = self.normalisation
        return part.center + part.shift * part.log_scale.exp()

    @property
    def triangles(self) -> tuple[Tensor, Tensor]:
        """The convolution's matrix, data -> base, but for its permutation.

        It is the product of a unit lower and an upper triangle.
        """
        params = self.convolution.mixing._params(None)
        factors, signs = params["factors"], params["signs"]
        mixing = factors / len(factors) ** 0.5
        scale, eye = factors.diagonal().exp(), torch.eye(len(factors), dtype=factors.dtype)
        lower = scale[:, None] * mixing.tril(-1) / scale + eye
        return lower, scale[:, None] * (mixing.triu(1) + eye) * signs

    @property
    def permutation(self) -> Tensor:
        """Which row of the triangles' product each of the matrix's rows is."""
        return self.convolution.mixing._params(None)["permutation"]


def steps_of(flow: Flow) -> list[Step]:
    """The steps, level by level from the one nearest the data on, each level base -> data."""
    kinds = ActNorm2d, InvertibleConv1x1, ConvNet
    found = ([part for part in flow.modules() if isinstance(part, kind)] for kind in kinds)
    return [Step(*parts) for parts in zip(*found, strict=True)]


class HalvesExchanged(FlowTransform):
    """Exchanges the halves of an even number of channels: the other one stays in a level."""

    domain = codomain = IMAGES

    def forward_and_ladj(self, x: Tensor, context: None = None) -> tuple[Tensor, Tensor]:
        """Maps base to data."""
        del context
        return x.roll(x.shape[-3] // 2, -3), x.new_zeros(x.shape[:-3])

    inverse_and_ladj = forward_and_ladj

    def _forward_shape(self, shape: torch.Size) -> torch.Size:
        return shape

    _inverse_shape = _forward_shape
