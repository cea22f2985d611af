"""What a dequantised flow asks of its two flows, and its uniform noise."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_nf.distributions._base import called
from pyro_nf.distributions.flow import Flow
from pyro_nf.transforms._support.same import same_support

UNIFORM = "uniform"


def floating_like(module: nn.Module) -> Tensor:
    """A tensor of the dtype and on the device in which a module computes."""
    floating = (t for t in chain(module.parameters(), module.buffers()) if t.is_floating_point())
    found = next(floating, None)
    return torch.zeros(()) if found is None else found


def uniform_noise(x: Tensor, lead: tuple[int, ...]) -> Tensor:
    """Uniform numbers in (0, 1), shape ``(*lead, *x.shape)``."""
    u = torch.rand((*lead, *x.shape), dtype=x.dtype, device=x.device)
    # Multiples of eps / 2. At 0 itself the density of a logit would be that at infinity.
    return u.clamp_min(torch.finfo(x.dtype).eps / 4)


def strictly_inside(y: Tensor) -> Tensor:
    """Numbers of [0, 1], moved by a rounding unit where they are 0 or 1."""
    info = torch.finfo(y.dtype)
    return y.clamp(info.tiny, 1 - info.eps)


def check_density(flow: Any) -> Flow:
    """Returns the flow of the dequantised data, or raises if it cannot be one."""
    if not isinstance(flow, Flow):
        raise TypeError(
            f"Dequantized got a flow of type {type(flow).__name__}. Pass a flow of real data, "
            "such as pyro_nf.flows.nsf(input_dim)."
        )
    support, like = flow.transform.codomain, floating_like(flow)
    if like.is_meta or constraints.is_dependent(support):
        return flow
    corners = [like.new_full(flow.event_shape, end) for end in (0.0, 1.0)]
    if not all(bool(support.check(strictly_inside(corner)).all()) for corner in corners):
        raise ValueError(
            f"Dequantized got a flow with support {support!r}, which does not hold the unit "
            "interval, where dequantised data lie. Build the flow on the whole real space, with "
            "support=constraints.unit_interval, or with the last layer Logit(alpha=0.05)."
        )
    return flow


def check_dequantizer(dequantizer: Any, flow: Flow) -> Flow | None:
    """Returns the flow of the noise, None for uniform noise, or raises if it does not fit."""
    if isinstance(dequantizer, str):
        if dequantizer != UNIFORM:
            raise ValueError(
                f"Dequantized got dequantizer={dequantizer!r}. Pass 'uniform', or a flow of the "
                "noise."
            )
        return None
    if not isinstance(dequantizer, Flow):
        raise TypeError(
            f"Dequantized got a dequantizer of type {type(dequantizer).__name__}. Pass 'uniform', "
            "or a flow with support=constraints.unit_interval."
        )
    shape, size = tuple(flow.event_shape), flow.event_shape.numel()
    if tuple(dequantizer.event_shape) != shape:
        raise ValueError(
            f"Dequantized got a flow of event shape {shape} and a dequantizer of event shape "
            f"{tuple(dequantizer.event_shape)}. Build both for the same data."
        )
    if dequantizer.context_dim not in (size, size + flow.context_dim):
        whole = f", or context_dim={size + flow.context_dim} to read the flow's context, too"
        raise ValueError(
            f"Dequantized got a dequantizer with context_dim={dequantizer.context_dim}; its "
            f"context is the datum, flattened. Build it with context_dim={size}"
            f"{whole if flow.context_dim else ''}."
        )
    if not same_support(constraints.unit_interval, dequantizer.transform.codomain):
        raise ValueError(
            f"Dequantized got a dequantizer with support {dequantizer.transform.codomain!r}; "
            "the noise lies in the unit interval. Build it with "
            "support=constraints.unit_interval, or with the last layer Logit(alpha=0.0)."
        )
    if not floating_like(dequantizer).is_meta:
        _check_gradients(dequantizer)
    return dequantizer


def _check_gradients(dequantizer: Flow) -> None:
    base = called(dequantizer.base, dequantizer._any_context())
    if not base.has_rsample:
        raise ValueError(
            f"Dequantized got a dequantizer on a {type(dequantizer.base).__name__} base, whose "
            "draws have no gradient. Build it on a DiagonalNormal."
        )


def check_precision(levels: int, dtype: torch.dtype) -> None:
    """Raises if noise of width 1 on the highest level is rounded to a few values."""
    most = int(1 / (16 * torch.finfo(dtype).eps))
    if levels > most:
        raise ValueError(
            f"Dequantized(levels={levels}) has parameters of dtype {dtype}, which rounds the "
            f"noise away on more than {most} levels. Convert it, flow.float() or flow.double(), "
            "or use fewer levels."
        )
