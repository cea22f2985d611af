"""What pictures of the plane ask of a flow or a layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from pyro_nf._modes import in_mode
from pyro_nf.distributions import Flow
from pyro_nf.plot._common import Rows

Bounds = tuple[tuple[float, float], tuple[float, float]]


@contextmanager
def evaluated(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, for a block."""
    with in_mode(module, "eval"), torch.no_grad():
        yield


def check_planar(owner: str, flow: Flow) -> None:
    """Raises unless the flow's events are pairs."""
    if tuple(flow.event_shape) != (2,):
        raise ValueError(
            f"{owner} got a flow with event shape {tuple(flow.event_shape)}; it draws the plane. "
            "Use pairs(data, samples) for other dimensions."
        )


def like(module: nn.Module, values: Tensor | np.ndarray) -> Tensor:
    """The values as a tensor of the module's dtype, on its device."""
    parameter = next(module.parameters(), torch.empty(0))
    return torch.as_tensor(values, dtype=parameter.dtype, device=parameter.device)


def one_context(module: nn.Module, context: Rows | None) -> Tensor | None:
    """The context as a tensor, or None."""
    return None if context is None else like(module, context)
