"""Log importance weights of draws, for each row of the plates around all sites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pyro.distributions.util import scale_and_mask
from torch import Tensor


class LogWeights(NamedTuple):
    """Log weights, and what multiplies their bound.

    Attributes:
        values: Dimensions aligned right with those of the sites' batches; those of plates that do
            not surround all sites are 1.
        scale: A factor that all sites share, such as that of a mini-batch.
    """

    values: Tensor
    scale: float


def log_weights(owner: str, model_sites: Iterable[Any], guide_sites: Iterable[Any]) -> LogWeights:
    """Sums log densities, model minus guide, over the plates that some sites are not in.

    Args:
        owner: Who asks, for messages.
        model_sites: The model's sample sites, their log densities computed.
        guide_sites: The guide's.

    Raises:
        ValueError: If a mini-batch is to be weighed together with sites outside of its plate.
    """
    signed = [(1, site) for site in model_sites] + [(-1, site) for site in guide_sites]
    sites = [site for _, site in signed]
    stacks = [{f for f in site["cond_indep_stack"] if f.vectorized} for site in sites]
    around_all = set.intersection(*stacks)
    for frame in set().union(*stacks) - around_all:
        if frame.full_size not in (None, frame.size):
            raise ValueError(
                f"{owner} got plate {frame.name!r}, which shows {frame.size} of "
                f"{frame.full_size} rows, and sites outside of it: weights from a mini-batch are "
                "noise, whose bound is another. Pass all rows, or use Trace_ELBO."
            )
    scale = _shared_scale([site["scale"] for site in sites])
    keep = {frame.dim for frame in around_all}
    total: Tensor | float = 0.0
    for sign, site in signed:
        if scale is None:
            log_prob = site["log_prob"]
        else:
            log_prob = scale_and_mask(site["unscaled_log_prob"], 1.0, site["mask"])
        dims = [dim for dim in range(-log_prob.ndim, 0) if dim not in keep]
        total = total + sign * (log_prob.sum(dims, keepdim=True) if dims else log_prob)
    assert isinstance(total, Tensor)
    return LogWeights(total, 1.0 if scale is None else scale)


def _shared_scale(scales: Sequence[Any]) -> float | None:
    """The factor of all sites, which belongs outside of the logarithm; None if they differ."""
    if any(isinstance(scale, Tensor) and scale.numel() > 1 for scale in scales):
        return None
    numbers = {float(scale) for scale in scales}
    return numbers.pop() if len(numbers) == 1 else None
