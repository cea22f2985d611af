"""Discrete sites summed out exactly, for one point or for each of many under a plate."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from pyro.ops.contract import contract_to_tensor
from pyro.poutine.util import site_is_subsample
from torch import Tensor


def summed_out(trace: Any, plate: str | None) -> Tensor:
    """Sums the discrete sites of an enumerated trace out.

    Args:
        trace: A trace of a model under ``poutine.enum``.
        plate: Name of a plate whose rows stay apart; None for the total.

    Returns:
        The log density of each row of the plate, ``(rows,)``, or in all, ``()``.
    """
    trace.compute_log_prob()
    trace.pack_tensors()
    symbols = trace.plate_to_symbol
    factors: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    for site in trace.nodes.values():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
        ordinal = frozenset(symbols[frame.name] for frame in frames)
        factors.setdefault(ordinal, []).append(site["packed"]["log_prob"])
    enumerated = set(trace.symbol_to_dim) - set(symbols.values())
    rows = frozenset() if plate is None else frozenset([symbols[plate]])
    return torch.as_tensor(contract_to_tensor(factors, enumerated, target_ordinal=rows))
