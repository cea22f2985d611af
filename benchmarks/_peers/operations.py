"""What is timed of a flow in torch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import torch

from benchmarks._peers.architecture import Spec
from benchmarks._peers.contender import Model
from benchmarks._peers.images_architecture import ImageSpec


def torch_cells(model: Model, spec: Spec | ImageSpec) -> dict[str, Callable[[], object]]:
    """Creates one call for each operation of the spec that the model has.

    All libraries are trained by the same fused Adam. Its learning rate is 0, which costs the same
    and keeps the flows what they were. Two batches take turns, for a library that remembers the
    last one would not compute anything.
    """
    parameters = [p for p in model.module.parameters() if p.requires_grad]
    like = parameters[0]
    generator = torch.Generator(like.device).manual_seed(0)
    batches = cycle(
        torch.randn(
            spec.batch, *spec.event, generator=generator, device=like.device, dtype=like.dtype
        )
        for _ in range(2)
    )
    optimizer = torch.optim.Adam(parameters, lr=0.0, fused=True)
    log_prob, rsample, draw = model.log_prob, model.rsample, model.rsample_and_log_prob
    cells: dict[str, Callable[[], object]] = {}

    if log_prob is not None:

        def score() -> None:
            with torch.no_grad():
                log_prob(next(batches))

        def train() -> None:
            optimizer.zero_grad()
            log_prob(next(batches)).mean().neg().backward()
            optimizer.step()

        cells |= {"log_prob": score, "train": train}

    if rsample is not None:

        def sample() -> None:
            with torch.no_grad():
                rsample(spec.batch)

        def inverse_grad() -> None:
            optimizer.zero_grad()
            rsample(spec.batch).sum().backward()

        cells |= {"sample": sample, "inverse_grad": inverse_grad}

    if draw is not None:

        def vi() -> None:
            optimizer.zero_grad()
            x, log_q = draw(spec.batch)
            (log_q + 0.5 * x.square().sum(-1)).mean().backward()
            optimizer.step()

        cells["vi"] = vi

    return {name: cells[name] for name in spec.kind.operations if name in cells}
