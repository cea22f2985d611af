"""Checks of the numbers that enter a flow's distribution, under torch's validation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_nf._tracing import is_compiled_or_mapped
from pyro_nf.transforms._contract.protocol import Bound, FlowTransform
from pyro_nf.transforms._support.angles import remedy


def check_values(value: Tensor, support: Constraint, transform: FlowTransform | Bound) -> None:
    """Raises if a datum is outside of the support or not finite; the message names the first.

    Torch's own check lets infinite numbers pass for real ones, at which no flow has a density.
    """
    # Torch cannot check an empty batch, nor compile a check without breaking the graph.
    if not value.numel() or torch.compiler.is_compiling():
        return
    # A finite sum has finite terms: one fast pass tells what three slow ones do.
    if _is_all_of_space(support) and torch._is_all_true(value.detach().sum().isfinite()):
        return
    inside = support.check(value)  # (*batch,)
    inside = inside & value.isfinite().reshape(*inside.shape, -1).all(-1)
    if torch._is_all_true(inside):  # unlike bool(...) it may stand under vmap
        return
    row = tuple((~inside).nonzero()[0].tolist())
    raise ValueError(
        f"log_prob got {_shown(value[row])}{f' at {list(row)}' if row else ''}, outside of "
        f"{support!r}, the codomain of {_last_layer(transform)}. "
        + remedy(
            support,
            "Remove or mend such values, or build the flow with a support that contains them.",
        )
    )


def _is_all_of_space(support: Constraint) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real


def check_finite_context(owner: str, context: Tensor | None) -> None:
    """Raises if a row of the context is not finite; the message names the first."""
    if context is None or is_compiled_or_mapped() or bool(context.isfinite().all()):
        return
    row = tuple((~context.isfinite().all(-1)).nonzero()[0].tolist())
    raise ValueError(
        f"{owner} got the context {_shown(context[row])}{f' at {list(row)}' if row else ''}, "
        "which is not finite. Remove or mend such rows."
    )


def _shown(row: Tensor) -> str:
    """The first numbers of a row."""
    shown = ", ".join(f"{v:.6g}" for v in row.flatten()[:6].tolist())
    return f"[{shown}{', ...' if row.numel() > 6 else ''}]"


def _last_layer(transform: FlowTransform | Bound) -> str:
    """The name of the layer nearest to the data."""
    layer: Any = transform.layer if isinstance(transform, Bound) else transform
    while getattr(layer, "parts", None):
        layer = layer.parts[-1]
    return type(layer).__name__
