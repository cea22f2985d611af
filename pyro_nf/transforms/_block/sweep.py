"""The slow direction of a block autoregressive layer."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_nf._tracing import is_traced
from pyro_nf.bijections._root import ConvergenceError
from pyro_nf.nn._block_values import BlockValues, evaluate
from pyro_nf.transforms._block.gradient import BlockSweep, recorded_walk
from pyro_nf.transforms._block.walk import Search, walk
from pyro_nf.transforms._sweep.walk import Buffer


def block_sweep(values: BlockValues, v: Tensor, search: Search) -> tuple[Tensor, Tensor]:
    """Solves a block network for its input, and differentiates the solution exactly.

    Args:
        values: The network's numbers.
        v: What the network shall return, ``(D, N)``.
        search: How the roots are searched for.

    Returns:
        u and log ∂v_d/∂u_d at u, both ``(D, N)``.

    Raises:
        ConvergenceError: If a root is not found; a network that is not onto says so.
    """
    try:
        if is_traced():
            return recorded_walk(values, v, search)
        if torch.is_grad_enabled():
            return BlockSweep.apply(values, search, v, *values.tensors)
        u = walk(values, v, search, Buffer)
        return u, evaluate(values, u)[1]
    except ConvergenceError as error:
        if values.is_onto:
            raise
        raise ConvergenceError(
            f"{search.owner} has a bounded range without a residual connection and got values "
            "outside of it, or too near its ends. Build it with residual='gated', which is onto "
            "the real line."
        ) from error
