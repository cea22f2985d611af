"""What a user hands to a fit, turned into tensors that fit the flow, or refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from pyro_nf.distributions import Dequantized
from pyro_nf.distributions._integers import check_levels, checked_integers
from pyro_nf.infer._support import Density, is_bounded, refuse_outside_support


@dataclass(frozen=True)
class Expected:
    """What a flow expects of its data: shape, support, and the dtype and device to bring it to.

    Messages name ``owner``, the function that got the data. ``levels`` is 0 for real data;
    integers keep their dtype, which may be an eighth of the flow's in size.
    """

    flow: Density
    bounded: bool
    event_shape: torch.Size
    context_dim: int
    dtype: torch.dtype
    device: torch.device
    owner: str = "fit_density"
    levels: int = 0

    @classmethod
    def by(cls, flow: Density, owner: str = "fit_density") -> Expected:
        """Reads off what ``flow`` expects."""
        floating = (t for t in chain(flow.parameters(), flow.buffers()) if t.is_floating_point())
        like = next(floating, torch.empty(0))
        levels = flow.levels if isinstance(flow, Dequantized) else 0
        bounded = not levels and is_bounded(flow, like)
        shape, context_dim = flow.event_shape, flow.context_dim
        return cls(flow, bounded, shape, context_dim, like.dtype, like.device, owner, levels)

    def unpack(self, batch: Any, name: str) -> tuple[Any, Any]:
        """Splits what a loader yields, or what is held out, into ``(x, context or None)``."""
        if not isinstance(batch, (tuple, list)):
            return batch, None
        if len(batch) not in (1, 2):
            raise ValueError(
                f"{self.owner} got {len(batch)} parts in {name}. Pass x, or (x, context)."
            )
        return batch[0], batch[1] if len(batch) == 2 else None

    def pair(
        self, data: Any, context: Any, *, name: str = "data", check_values: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Returns ``(x, context)`` as checked tensors of the flow's dtype, on its device.

        ``check_values`` looks at every number, which on an accelerator waits for the result.
        """
        x, rows = self._pair(data, context, name, check_values=check_values)
        if check_values and self.bounded:
            refuse_outside_support(self.flow, x, rows, self.owner, name)
        return x, rows

    def _pair(
        self, data: Any, context: Any, name: str, *, check_values: bool
    ) -> tuple[Tensor, Tensor | None]:
        x = self._data(data, name, check_values=check_values)
        context_name = "context" if name == "data" else f"the context of {name}"
        if self.context_dim == 0:
            if context is not None:
                raise ValueError(
                    f"{self.owner} got {context_name} for a flow built without one. "
                    f"Build the flow with context_dim={_last(context)}, or leave the context away."
                )
            return x, None
        if context is None:
            raise ValueError(
                f"{self.owner} got no {context_name} for a flow built with "
                f"context_dim={self.context_dim}. Pass one of shape "
                f"({len(x)}, {self.context_dim}): a row for each row of {name}."
            )
        rows = self._rows(
            context, context_name, torch.Size([self.context_dim]), check_values=check_values
        )
        if len(rows) != len(x):
            raise ValueError(
                f"{self.owner} got {len(x)} rows of {name} and {len(rows)} rows of "
                f"{context_name}. Pass as many of one as of the other."
            )
        return x, rows

    def _data(self, value: Any, name: str, *, check_values: bool) -> Tensor:
        if not self.levels:
            return self._rows(value, name, self.event_shape, check_values=check_values)
        convert = "long()" if isinstance(value, Tensor) else "astype(int)"
        tensor = _as_tensor(self.owner, value, name)
        tensor = checked_integers(self.owner, name, tensor, self.levels, convert)
        self._check_shape(tensor, name, self.event_shape)
        if check_values:
            check_levels(self.owner, name, tensor, self.levels)
        return tensor.to(self.device)

    def _rows(self, value: Any, name: str, row_shape: torch.Size, *, check_values: bool) -> Tensor:
        tensor = _as_tensor(self.owner, value, name)
        if tensor.is_complex() or not tensor.is_floating_point():
            raise ValueError(
                f"{self.owner} got {name} of dtype {str(tensor.dtype).removeprefix('torch.')}; "
                "a flow is a density over real numbers. Convert it to floating point, or model "
                "integers as such: pyro_nf.distributions.Dequantized(flow, levels)."
            )
        self._check_shape(tensor, name, row_shape)
        tensor = tensor.detach().to(self.device, self.dtype)
        if check_values:
            _refuse_non_finite(self.owner, tensor, name)
        return tensor

    def _check_shape(self, tensor: Tensor, name: str, row_shape: torch.Size) -> None:
        expected = f"(rows, {', '.join(map(str, row_shape))})"
        if tensor.shape[1:] != row_shape or tensor.ndim == 0:
            raise ValueError(
                f"{self.owner} got {name} of shape {tuple(tensor.shape)}; the flow expects "
                f"{expected}. Reshape it, or build the flow for these dimensions."
            )
        if len(tensor) == 0:
            raise ValueError(f"{self.owner} got {name} without rows. Pass at least two.")


def check_flow(owner: str, flow: Any) -> None:
    """Raises if ``flow`` is something else that one might take for a flow."""
    kind = type(flow).__name__
    if isinstance(flow, Distribution):
        raise TypeError(
            f"{owner} got a distribution ({kind}), which has no parameters of its own to train. "
            f"Pass the flow itself: {owner}(flow, data), not {owner}(flow(), data)."
        )
    if isinstance(flow, Transform):
        raise TypeError(
            f"{owner} got a layer ({kind}), which is no density. Put it on a base distribution: "
            "Flow(DiagonalNormal(input_dim), layer)."
        )
    if not (isinstance(flow, nn.Module) and hasattr(flow, "initialize")):
        raise TypeError(
            f"{owner} got a flow of type {kind}. Pass flows.nsf(input_dim), say, or "
            "Flow(base, layers)."
        )


def _as_tensor(owner: str, value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"{owner} got {name} of type {type(value).__name__}. "
            "Pass a tensor, a NumPy array or a DataLoader."
        )
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind == "f":
        dtype = np.dtype(np.float32 if dtype.itemsize <= 4 else np.float64)
    # A copy in native byte order; torch reads neither others nor read-only memory.
    return torch.from_numpy(np.array(array, dtype=dtype))


def _refuse_non_finite(owner: str, tensor: Tensor, name: str) -> None:
    finite = torch.isfinite(tensor)
    if bool(finite.all()):
        return
    row, *column = (int(i) for i in torch.nonzero(~finite)[0])
    where = f"column {column[0]}" if len(column) == 1 else f"position {tuple(column)}"
    bad_rows = int((~finite.flatten(1).all(1)).sum())
    raise ValueError(
        f"{owner} got {name} with a value that is not finite as {tensor.dtype}: row {row}, "
        f"{where} is {float(tensor[(row, *column)])} ({bad_rows} such rows). "
        "Remove these rows or fill the gaps in."
    )


def _last(value: Any) -> int | str:
    shape: Sequence[int] = getattr(value, "shape", ())
    return shape[-1] if shape else "..."
