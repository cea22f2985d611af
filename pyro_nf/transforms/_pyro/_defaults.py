"""What Pyro's factories of vector layers leave out: the number of reflections, the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyro_nf.nn.mlp import Activation


def half(input_dim: int) -> int:
    """Pyro's default number of reflections."""
    return input_dim // 2 + 1


def network_options(
    input_dim: int,
    context_dim: int,
    hidden_dims: Sequence[int] | None,
    nonlinearity: Activation,
) -> dict[str, Any]:
    """The options of a network of the context, with Pyro's default widths."""
    return {
        "context_dim": context_dim,
        "hidden_dims": [10 * input_dim] * 2 if hidden_dims is None else hidden_dims,
        "activation": nonlinearity,
    }
