"""Glow in nflows."""

from __future__ import annotations

from functools import partial

import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow as NFlow
from nflows.transforms import (
    ActNorm,
    AffineCouplingTransform,
    CompositeTransform,
    MultiscaleCompositeTransform,
    OneByOneConvolution,
    SqueezeTransform,
)
from torch import Tensor, nn

from benchmarks._peers import images_ours
from benchmarks._peers.bijections import Scaled, sigmoid_scale
from benchmarks._peers.contender import Model
from benchmarks._peers.images_architecture import ImageSpec
from pyro_nf.distributions import Flow
from pyro_nf.transforms import ActNorm2d, FlowTransform, InvertibleConv1x1

Layers = tuple[ActNorm, OneByOneConvolution, AffineCouplingTransform]


class ConvNet(nn.Module):
    """The network as nflows calls it, with a context that is always None."""

    def __init__(self, inputs: int, outputs: int, *, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, outputs, 3, padding=1),
        )

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        """Evaluates the network."""
        del context
        return self.layers(x)


def build(spec: ImageSpec) -> Model:
    """Creates nflows' flow, which lists its transforms from data to base.

    Its matrix has no signs and its permutation on the other side, here the identity in both.
    """
    transform = MultiscaleCompositeTransform(spec.levels)
    steps: list[Layers] = []
    for shape in spec.squeezed:
        level = [_layers(spec, shape[0]) for _ in range(spec.steps)]
        steps += level[::-1]
        chain = CompositeTransform(
            [SqueezeTransform(), *(part for step in level for part in step)]
        )
        transform.add_transform(chain, shape)
    flow = NFlow(transform, StandardNormal([spec.size]))
    return Model(
        flow,
        flow.log_prob,
        flow.sample,
        flow.sample_and_log_prob,
        # The second half of the channels stays in a level.
        partial(images_ours.flow, spec, _our_step, ends=[images_ours.HalvesExchanged()]),
        partial(_adopt, steps),
    )


def _layers(spec: ImageSpec, channels: int) -> Layers:
    mask = torch.arange(channels, device="cpu") >= channels // 2
    network = partial(ConvNet, hidden=spec.hidden)
    normalisation, mixing = ActNorm(channels), OneByOneConvolution(channels)
    normalisation.initialized.fill_(1)
    mixing.permutation._permutation.copy_(torch.arange(channels))
    return normalisation, mixing, AffineCouplingTransform(mask.long().tolist(), network)


def _our_step(spec: ImageSpec, channels: int, seed: int) -> list[FlowTransform]:
    del seed
    return [
        images_ours.coupling(spec, channels, Scaled(sigmoid_scale)).inv,
        InvertibleConv1x1(channels, seed=None).inv,
        ActNorm2d(channels),
    ]


@torch.no_grad()
def _adopt(steps: list[Layers], flow: Flow) -> None:
    for (normalisation, mixing, coupling), step in zip(
        steps, images_ours.steps_of(flow), strict=True
    ):
        scale = -step.normalisation.log_scale
        normalisation.log_scale.copy_(scale)
        normalisation.shift.copy_(-step.offset * scale.exp())
        lower, upper = step.triangles
        mixing.lower_entries.copy_(lower[mixing.lower_indices])
        mixing.upper_entries.copy_(upper[mixing.upper_indices])
        diagonal = upper.diagonal() - mixing.eps
        mixing.unconstrained_upper_diag.copy_(torch.log(torch.expm1(diagonal)))
        theirs = [part for part in coupling.modules() if isinstance(part, nn.Conv2d)]
        for mine, other in zip(step.convolutions, theirs, strict=True):
            other.load_state_dict(mine.state_dict())
