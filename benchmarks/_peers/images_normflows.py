"""Glow in normflows."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from normflows import MultiscaleFlow
from normflows.distributions import DiagGaussian
from normflows.flows import GlowBlock, Merge, Squeeze
from torch import Tensor

from benchmarks._peers import images_ours
from benchmarks._peers.bijections import Scaled
from benchmarks._peers.contender import Model
from benchmarks._peers.images_architecture import ImageSpec
from pyro_nf.distributions import Flow


def build(spec: ImageSpec) -> Model:
    """Creates normflows' flow, which lists its levels from the last one on."""
    levels, bases = [], []
    for level, (channels, height, width) in enumerate(spec.squeezed):
        blocks = [GlowBlock(channels, spec.hidden, scale_map="exp") for _ in range(spec.steps)]
        levels.append([*blocks, Squeeze()])
        own = channels if level == spec.levels - 1 else channels // 2
        bases.append(DiagGaussian((own, height, width), trainable=False))
    merges = [Merge() for _ in levels[1:]]
    flow = MultiscaleFlow(bases[::-1], levels[::-1], merges, class_cond=False)
    for module in flow.modules():
        if hasattr(module, "data_dep_init_done"):  # it would start from the first batch
            module.data_dep_init_done.fill_(1.0)

    def rsample(rows: int) -> Tensor:
        return flow.sample(rows)[0]

    step = partial(images_ours.own_step, bijection=Scaled(torch.Tensor.clone))
    blocks = [block for level in levels for block in level[:-1]]
    return Model(
        flow,
        lambda x: flow.log_prob(x, None),
        rsample,
        flow.sample,
        partial(images_ours.flow, spec, step),
        partial(_adopt, blocks),
    )


@torch.no_grad()
def _adopt(blocks: list[Any], flow: Flow) -> None:
    for (coupling, mixing, normalisation), step in zip(
        (block.flows for block in blocks), images_ours.steps_of(flow), strict=True
    ):
        normalisation.s.copy_(step.normalisation.log_scale.view_as(normalisation.s))
        normalisation.t.copy_(step.offset.view_as(normalisation.t))
        lower, upper = step.triangles
        mixing.L.copy_(lower)
        mixing.U.copy_(upper.triu(1))
        mixing.log_S.copy_(upper.diagonal().abs().log())
        mixing.sign_S.copy_(upper.diagonal().sign())
        mixing.P.copy_(torch.eye(len(lower))[step.permutation])
        theirs = [part for part in coupling.modules() if isinstance(part, torch.nn.Conv2d)]
        for mine, other in zip(step.convolutions, theirs, strict=True):
            for name, value in mine.named_parameters():
                if mine is step.convolutions[-1]:  # shift and log-scale lie side by side there
                    value = value.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
                getattr(other, name).copy_(value)
