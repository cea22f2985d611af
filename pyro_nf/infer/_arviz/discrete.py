"""Pointwise densities of observed sites with discrete sites summed out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_nf.infer._arviz.sites import Site


def summed_out(trace: poutine.Trace, sites: Mapping[str, Site], nesting: int) -> dict[str, Tensor]:
    r"""Sums the discrete sites out of each observed site's density, datum by datum.

    .. math:: \log p(y_i \mid \theta) = \log \sum_k p(k_i = k \mid \theta) \,
        p(y_i \mid k_i = k, \theta)

    That needs discrete sites that belong to one datum: in the same plates as the observed site,
    and read by no other. Observed sites where they do not are left out.

    Args:
        trace: A run in which discrete sites are enumerated, with its log densities computed.
        sites: The model's sites.
        nesting: How deep its plates nest; dimensions further left are those of values.
    """
    factors = {
        name: _with_values(trace.nodes[name], nesting)
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and name in sites
    }
    own = {
        name: trace.nodes[name]["infer"]["_enumerate_dim"]
        for name in factors
        if "_enumerate_dim" in trace.nodes[name]["infer"]
    }
    result = {}
    for name, site in sites.items():
        if site.kind == "data":
            density = _pointwise(name, factors, own, sites)
            if density is not None:
                result[name] = density.reshape(site.batch_shape)
    return result


def _with_values(node: Any, nesting: int) -> tuple[Tensor, set[int]]:
    """A site's log density and the dimensions of discrete sites' values that it depends on."""
    log_prob = scale_and_mask(node["unscaled_log_prob"], 1.0, node["mask"])
    dims = range(-log_prob.ndim, -nesting)
    return log_prob, {dim for dim in dims if log_prob.shape[dim] > 1}


def _pointwise(
    name: str,
    factors: Mapping[str, tuple[Tensor, set[int]]],
    own: Mapping[str, int],
    sites: Mapping[str, Site],
) -> Tensor | None:
    """One observed site's density; None where a discrete site is not its alone."""
    total, open_dims = factors[name]
    dims, used = set(open_dims), {name}
    while True:
        more = [k for k, dim in own.items() if dim in dims and k not in used]
        if not more:
            break
        for k in more:
            used.add(k)
            total = total + factors[k][0]
            dims |= factors[k][1]
    if any(sites[k].plates != sites[name].plates for k in used):
        return None
    if any(factors[k][1] & dims for k in factors if k not in used):
        return None
    if len({own[k] for k in used if k in own}) != len(used) - 1:  # pyro.markov uses them again
        return None
    return torch.logsumexp(total, sorted(dims)) if dims else total
