"""What no Glow in plain torch goes below: its couplings' networks alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks._peers.contender import Contender
from benchmarks._peers.images_architecture import ImageSpec


def contender(spec: ImageSpec) -> Contender:
    """Creates the networks' passes, and their training step with the same fused Adam.

    Weights and images lie channels-last, which is the faster layout.
    """
    whole, images = nn.ModuleList(), list[Tensor]()
    for channels, height, width in spec.squeezed:
        for _ in range(spec.steps):
            whole.append(_network(channels, spec.hidden))
            images.append(torch.randn(spec.batch, channels // 2, height, width))
    whole = whole.to(memory_format=torch.channels_last)
    images = [x.to(memory_format=torch.channels_last).requires_grad_() for x in images]
    optimizer = torch.optim.Adam(whole.parameters(), lr=0.0, fused=True)

    def evaluate() -> None:
        with torch.no_grad():
            for network, x in zip(whole, images, strict=True):
                network(x)

    def train() -> None:
        optimizer.zero_grad()
        for x in images:
            x.grad = None
        total: Tensor = sum(net(x).sum() for net, x in zip(whole, images, strict=True))
        total.backward()
        optimizer.step()

    count = sum(p.numel() for p in whole.parameters())
    return Contender(count, {"train": train, "log_prob": evaluate, "sample": evaluate})


def _network(channels: int, hidden: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels // 2, hidden, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, 1),
        nn.ReLU(),
        nn.Conv2d(hidden, channels, 3, padding=1),
    )
