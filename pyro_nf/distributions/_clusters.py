"""Parts of a data set, to start the components of a mixture apart from one another."""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDS = 10


def clusters(x: Tensor, count: int, seed: int) -> list[Tensor]:
    """Cuts rows into ``count`` parts by k-means on standardised columns.

    Args:
        x: Shape ``(rows, columns)``, finite.
        count: Number of parts.
        seed: Seed of the starting centres.

    Returns:
        For each part a mask of shape ``(rows,)``; a part of fewer than two rows is all rows.
    """
    generator = torch.Generator().manual_seed(seed)
    spread = x.std(0, correction=0)
    x = (x - x.mean(0)) / torch.where(spread > 0, spread, 1)
    centres = _spread_out(x, count, generator)
    for _ in range(_ROUNDS):
        member = torch.cdist(x, centres).argmin(1) == torch.arange(
            count, device=x.device
        ).unsqueeze(1)  # (count, rows)
        sizes = member.sum(1, keepdim=True)
        means = member.to(x) @ x / sizes.clamp(min=1)
        centres = torch.where(sizes > 0, means, centres)
    whole = torch.ones_like(member[0])
    return [part if int(part.sum()) > 1 else whole for part in member]


def _spread_out(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draws rows with probability proportional to their squared distance to those before."""
    chosen = [int(torch.randint(len(x), (), generator=generator, device="cpu"))]
    while len(chosen) < count:
        distance = torch.cdist(x, x[chosen]).amin(1).square().double().cpu()
        weights = distance if bool(distance.any()) else torch.ones_like(distance)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
    return x[chosen]
