"""Discrete sites summed out exactly, for one point or for each of many under a plate."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from pyro.infer.traceenum_elbo import _get_common_scale
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree, contract_to_tensor
from pyro.poutine.util import site_is_subsample
from torch import Tensor

Factors = OrderedDict[frozenset[str], list[Tensor]]


def summed_out(trace: Any, plate: str | None) -> Tensor:
    """Sums the discrete sites of an enumerated trace out.

    Args:
        trace: A trace of a model under ``poutine.enum``.
        plate: Name of a plate whose rows stay apart; None for the total.

    Returns:
        The log density of each row of the plate, ``(rows,)``, or in all, ``()``.

    Raises:
        ValueError: If sites that share a sum have different scales.
    """
    trace.compute_log_prob()
    trace.pack_tensors()
    symbols = trace.plate_to_symbol
    enumerated = set(trace.symbol_to_dim) - set(symbols.values())
    factors, inside, scales = Factors(), Factors(), []
    for site in trace.nodes.values():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
        ordinal = frozenset(symbols[frame.name] for frame in frames)
        terms = site["packed"]
        if enumerated.isdisjoint(terms["log_prob"]._pyro_dims):
            factors.setdefault(ordinal, []).append(terms["log_prob"])
            continue
        # A scale, that of a mini-batch too, multiplies the logarithm of the sum, not its terms.
        term = packed.scale_and_mask(terms["unscaled_log_prob"], mask=terms["mask"])
        inside.setdefault(ordinal, []).append(term)
        scales.append(site["scale"])
    if inside:
        scale = _get_common_scale(scales)
        for ordinal, sums in contract_tensor_tree(inside, enumerated).items():
            scaled = [packed.scale_and_mask(term, scale=scale) for term in sums]
            factors.setdefault(ordinal, []).extend(scaled)
    rows = frozenset() if plate is None else frozenset([symbols[plate]])
    return torch.as_tensor(contract_to_tensor(factors, set(), target_ordinal=rows))
