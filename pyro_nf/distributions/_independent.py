"""Pyro's ``Independent``, for any batch."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyro_nf.transforms._contract.features import sum_rightmost


class IndependentDimensions(dist.Independent):
    """A distribution whose rightmost batch dimensions are those of one event.

    Torch's own cannot score an empty batch: it reshapes to a size that is then ambiguous.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Computes the log density, summed over the event."""
        return sum_rightmost(self.base_dist.log_prob(value), self.reinterpreted_batch_ndims)
