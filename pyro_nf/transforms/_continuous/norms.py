"""Which size of the error an adaptive solver holds below its tolerances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from pyro_nf.transforms._continuous.dynamics import Dynamics

Norm = Literal["rms", "max", "sample"]


def error_norm(norm: Norm, dynamics: Dynamics) -> Callable[[Tensor], Tensor]:
    """The norm of a flat error, over z and the log-determinant: side results steer no steps.

    - "rms": the root mean square over all numbers of all samples;
    - "max": the largest number;
    - "sample": the largest root mean square over the numbers of one sample.
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

    return {"rms": rms, "max": largest, "sample": of_samples}[norm]
