"""How a coupling layer parts its features into those it keeps and those it moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from pyro_nf._checks import choice, positive_int

MaskKind = Literal["half", "alternating", "random"]


def coupling_mask(
    input_dim: int, kind: MaskKind = "half", *, parity: int = 0, seed: int = 0
) -> Tensor:
    """Creates the mask of a coupling layer: True where a feature is kept and read by the network.

    Args:
        input_dim: Number D of features. The only feature of D = 1 is always moved.
        kind: "half" keeps the first ⌊D/2⌋ features, "alternating" every second one, "random" ⌊D/2⌋
            drawn from ``seed``.
        parity: 1 exchanges kept and moved, 0 does not: give it alternating values along a chain.
        seed: Seed of a random mask; the global generator is not touched.

    Returns:
        Boolean, shape ``(D,)``.

    Raises:
        ValueError: If an option is unknown or a size out of range.

    Examples:
        >>> coupling_mask(5, "alternating", parity=1)
        tensor([False,  True, False,  True, False])
    """
    positive_int("coupling_mask", "input_dim", input_dim)
    choice("coupling_mask", "kind", kind, ("half", "alternating", "random"))
    if parity not in (0, 1):
        raise ValueError(f"coupling_mask got parity={parity}. Pass 0 or 1.")
    if input_dim == 1:
        return torch.tensor([False], device="cpu")
    # On the CPU whatever the default device: the mask decides shapes.
    index = torch.arange(input_dim, device="cpu")
    if kind == "alternating":
        mask = index % 2 == 0
    elif kind == "half":
        mask = index < input_dim // 2
    else:
        generator = torch.Generator("cpu").manual_seed(seed)
        mask = torch.randperm(input_dim, generator=generator, device="cpu") < input_dim // 2
    return ~mask if parity else mask


class Partition(nn.Module):
    """Parts ``(D, *batch)`` into kept and moved features and joins them again.

    Where the kept features are the first or the last ones, both ways are slices and one
    concatenation; else they are gathers by index buffers, which are part of the state.

    Args:
        mask: Boolean, shape ``(D,)``: True where a feature is kept.

    Raises:
        ValueError: If the mask is not of that shape, or keeps every feature.
    """

    def __init__(self, mask: Tensor | Sequence[bool]) -> None:
        super().__init__()
        mask = torch.as_tensor(mask, device="cpu")
        if mask.ndim != 1 or mask.dtype != torch.bool:
            raise ValueError(
                f"Coupling got a mask of shape {tuple(mask.shape)} and dtype {mask.dtype}. Pass "
                "one boolean for each dimension, True where it is kept."
            )
        if mask.all():
            raise ValueError(
                f"Coupling got a mask that keeps all {len(mask)} dimensions, so the layer would "
                "move none. Set at least one entry to False."
            )
        self.kept_dim = int(mask.sum())
        self.moved_dim = len(mask) - self.kept_dim
        self.layout: Literal["kept_first", "moved_first", "gather"] = "gather"
        if mask[: self.kept_dim].all():
            self.layout = "kept_first"
        elif mask[self.moved_dim :].all():
            self.layout = "moved_first"
        else:
            kept, moved = mask.nonzero().squeeze(1), (~mask).nonzero().squeeze(1)
            # As lists, so that the buffers lie where the default device says.
            self.register_buffer("kept", torch.tensor(kept.tolist()))
            self.register_buffer("moved", torch.tensor(moved.tolist()))
            restore = torch.cat([kept, moved]).argsort()
            self.register_buffer("restore", torch.tensor(restore.tolist()))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Parts ``(D, *batch)`` into the kept ``(kept_dim, *batch)`` and the moved rows."""
        if self.layout == "kept_first":
            return x[: self.kept_dim], x[self.kept_dim :]
        if self.layout == "moved_first":
            return x[self.moved_dim :], x[: self.moved_dim]
        return x.index_select(0, cast("Tensor", self.kept)), x.index_select(
            0, cast("Tensor", self.moved)
        )

    def join(self, kept: Tensor, moved: Tensor) -> Tensor:
        """Undoes :meth:`split`."""
        if self.layout == "moved_first":
            return torch.cat([moved, kept])
        joined = torch.cat([kept, moved])
        if self.layout == "kept_first":
            return joined
        return joined.index_select(0, cast("Tensor", self.restore))

    def extra_repr(self) -> str:
        """The sizes and the layout."""
        return f"kept={self.kept_dim}, moved={self.moved_dim}, layout={self.layout!r}"
