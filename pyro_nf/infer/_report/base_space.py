"""The space of a guide's base distribution, in which a posterior that it fits is simple."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.transforms import LowerCholeskyAffine
from pyro.infer.autoguide import AutoContinuous
from torch import Tensor
from torch.distributions import Transform


@dataclass(frozen=True)
class BaseSpace:
    """A guide's base space.

    Attributes:
        transform: Base to unconstrained latents.
        draws: The guide's draws there, shape ``(n, D)``.
    """

    transform: Transform
    draws: Tensor

    @classmethod
    @torch.no_grad()
    def of_guide(
        cls,
        guide: AutoContinuous,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        draws: Tensor,
    ) -> BaseSpace | None:
        """Creates that of a guide with given draws; None if it has none, or no way back to it."""
        try:
            transform = guide.get_transform(*args, **kwargs)
            base = transform.inv(draws)
        except (KeyError, NotImplementedError):  # Pyro's ways to say so
            return None
        return cls(transform, base) if bool(base.isfinite().all()) else None

    @classmethod
    def of_draws(cls, draws: Tensor) -> BaseSpace | None:
        """Creates that of a Gaussian with the draws' moments; None if they are degenerate."""
        draws = draws[draws.isfinite().all(-1)].double()
        covariance = torch.atleast_2d(torch.cov(draws.T))
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if bool(failed):
            return None
        transform = LowerCholeskyAffine(draws.mean(0), factor)
        return cls(transform, transform.inv(draws))

    def pull_back(self, log_density: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
        """Computes the log density of base points ``(n, D)``, in float64."""
        u = u.to(self.draws.dtype)
        z = self.transform(u)
        ladj = self.transform.log_abs_det_jacobian(u, z)  # (n,), or (n, D) if elementwise
        return log_density(z) + ladj.double().reshape(len(u), -1).sum(-1)
