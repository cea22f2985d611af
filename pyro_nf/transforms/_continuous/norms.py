"""Which size of the error an adaptive solver holds below its tolerances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pyro_nf.transforms._continuous.dynamics import Dynamics

Norm = Literal["rms", "max", "sample"]
AdjointNorm = Literal["seminorm", "full"]


def error_norm(norm: Norm, dynamics: Dynamics) -> Callable[[Tensor], Tensor]:
    """The norm of a flat error, over z and the log-determinant: side results steer no steps.

    - "rms": the root mean square over all numbers of all samples;
    - "max": the largest number;
    - "sample": the largest root mean square over the numbers of one sample.

    The steps are given numbers for backpropagation: a gradient through their sizes is noise, and
    the times of all evaluations would carry it.
    """
    size, samples = dynamics.shape.numel(), dynamics.samples

    def rms(error: Tensor) -> Tensor:
        return error[: size + samples].square().mean().sqrt()

    def largest(error: Tensor) -> Tensor:
        return error[: size + samples].abs().max()

    def of_samples(error: Tensor) -> Tensor:
        squares = error[: size + samples].square()
        z, ladj = squares[:size].view(dynamics.shape), squares[size:]
        features_lead = dynamics.features_lead
        total = (z.sum(0) if features_lead else z.flatten(1).sum(1)) + ladj
        return (total.max() / (size // samples + 1)).sqrt()

    chosen = {"rms": rms, "max": largest, "sample": of_samples}[norm]
    return lambda error: chosen(error.detach())


def adjoint_error_norm(
    adjoint_norm: AdjointNorm, norm: Callable[[Tensor], Tensor]
) -> Callable[[tuple[Tensor, ...]], Tensor]:
    """The norm of an error of the adjoint equation: time's gradient, state, its gradient, values'.

    Torchdiffeq's own compare with Python's ``max``, which overlooks a NaN.
    """

    def seminorm(errors: tuple[Tensor, ...]) -> Tensor:
        _, state, of_state, *_ = errors
        return torch.maximum(norm(state), norm(of_state))

    def full(errors: tuple[Tensor, ...]) -> Tensor:
        of_values = [error.square().mean().sqrt() for error in errors[3:]]
        return torch.stack([seminorm(errors), *of_values]).max()

    return {"seminorm": seminorm, "full": full}[adjoint_norm]
