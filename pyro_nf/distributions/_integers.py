"""Checks of integer data: of their dtype, and that they are levels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_nf._tracing import is_compiled_or_mapped

# Torch has these for storage, and next to no arithmetic on them.
_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}


def checked_integers(
    owner: str, name: str, value: Any, levels: int, convert: str = "long()"
) -> Tensor:
    """Returns a tensor of integers as one that torch computes with, or raises by its dtype.

    ``convert`` is the method by which the caller's data become integers.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{owner} got {name} of type {type(value).__name__}. Pass a tensor of integers: "
            f"torch.as_tensor({name})."
        )
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(
            f"{owner} got {name} of dtype {value.dtype} for a Dequantized flow. Pass integers "
            f"0..{levels - 1}: {name}.{convert}, if the values are these."
        )
    return value.to(_WIDER.get(value.dtype, value.dtype))


def check_levels(owner: str, name: str, value: Tensor, levels: int) -> None:
    """Raises if an integer is none of ``0..levels - 1``; the message names the first.

    Nothing is checked where values cannot be read: in compiled, mapped or recorded code, or on
    ``meta``.
    """
    if not value.numel() or value.is_meta or is_compiled_or_mapped() or torch.jit.is_tracing():
        return
    # By Python's integers: torch rounds 256 to 0 where it compares it with those of 8 bits.
    low, high = (int(bound) for bound in value.aminmax())
    if 0 <= low and high < levels:
        return
    wide = value.long()
    outside = (wide < 0) | (wide >= levels)
    first = tuple(outside.nonzero()[0].tolist())
    remedy = (
        f"Bring the data to these levels, or build Dequantized(flow, levels={high + 1})."
        if low >= 0
        else "Levels count from 0: shift or mend the data."
    )
    raise ValueError(
        f"{owner} got {name} with {int(value[first])}{f' at {list(first)}' if first else ''} "
        f"({int(outside.sum())} such values), outside of the levels 0..{levels - 1}. {remedy}"
    )
