"""What the tests of Pyro's names share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def perturb(layer: nn.Module, scale: float = 0.2) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(scale * torch.randn_like(parameter))


def log_det(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Autograd's, of one event of any shape."""
    size = x.numel()
    flat = torch.autograd.functional.jacobian(lambda v: run(v.view(x.shape)).flatten(), x.view(-1))
    return torch.linalg.slogdet(flat.view(size, size))[1]
