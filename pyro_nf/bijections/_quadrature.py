"""Gauss-Legendre quadrature on the unit interval."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_nf._tracing import is_traced


class Rule(NamedTuple):
    """Nodes and weights as numbers, which every tracer takes for constants."""

    nodes: tuple[float, ...]
    weights: tuple[float, ...]

    def tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes and weights ``(count, 1)`` of the dtype and on the device of ``like``."""
        # Kept, so that an accelerator waits for the copy once; a tracer must not see a kept one.
        make = _columns if is_traced() else _kept_columns
        return make(self, like.dtype, like.device)


def gauss_legendre(count: int) -> Rule:
    """Creates the rule on [0, 1] that is exact for polynomials of degree 2 count - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return Rule(tuple(((nodes + 1) / 2).tolist()), tuple((weights / 2).tolist()))


def _columns(rule: Rule, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    nodes = torch.tensor(rule.nodes, dtype=dtype, device=device)
    weights = torch.tensor(rule.weights, dtype=dtype, device=device)
    return nodes.unsqueeze(1), weights.unsqueeze(1)


@lru_cache(maxsize=32)
def _kept_columns(rule: Rule, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    # A tensor made in inference mode could not be used in training later.
    with torch.inference_mode(mode=False):
        return _columns(rule, dtype, device)
