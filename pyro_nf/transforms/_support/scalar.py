"""Maps of the real line onto a scalar support, elementwise, with bounds that follow ``.to()``.

They are the maps of ``torch.distributions.biject_to``. Torch's own leave the support where
rounding meets a bound (``5 + exp(-17)`` is 5 in float32), and their inverses are infinite there.
Here values are kept inside of it by the spacing of floating-point numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

Bound = float | Tensor
ALL = slice(None)


class ScalarSupport(nn.Module):
    """A map of the real line onto one support, or onto one of the same kind for each column.

    Args:
        parts: Constraints of one type: a single one, or one for each column.

    Attributes:
        sign: +1 if the map increases, -1 if it decreases.
    """

    sign: int = 1

    def __init__(self, parts: Sequence[Any]) -> None:
        super().__init__()
        self.kind: Any = type(parts[0])
        self._exact: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``x`` into the support; value and log-derivative have its shape."""
        raise NotImplementedError

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``y`` back to the line; value and log-derivative have its shape."""
        raise NotImplementedError

    def constraint(self, columns: slice = ALL) -> Constraint:
        """The support of some of the columns, with its bounds where the module is now."""
        raise NotImplementedError

    def bounds(self) -> list[Tensor]:
        """The bounds that are tensors."""
        return [bound for bound in self._buffers.values() if bound is not None]

    def _set_bound(self, name: str, values: Sequence[Any]) -> None:
        """Keeps one bound: a number if all columns share it, else a buffer."""
        if len(values) == 1 and isinstance(values[0], Tensor):
            value = values[0] if values[0].is_floating_point() else values[0].float()
            self.register_buffer(name, value)
            return
        tensors = [v for v in values if isinstance(v, Tensor)]
        if tensors:
            column = [torch.as_tensor(v).to(tensors[0]).reshape(()) for v in values]
            self.register_buffer(name, torch.stack(column))
        elif len(set(values)) == 1:
            setattr(self, name, float(values[0]))
        else:
            # The 0.1 of float32 is not that of float64: each dtype rounds the number itself.
            self._exact[name] = torch.tensor(values, dtype=torch.float64, device="cpu")
            rounded = self._exact[name].to(torch.get_default_dtype())
            self.register_buffer(name, rounded, persistent=False)

    def _bound(self, name: str, like: Tensor) -> Bound:
        value = getattr(self, name)
        return value.to(like.dtype) if isinstance(value, Tensor) else value

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:  # noqa: FBT001, FBT002
        super()._apply(fn, recurse)
        for name, exact in self._exact.items():
            setattr(self, name, exact.to(getattr(self, name)))
        return self

    def extra_repr(self) -> str:
        """The support."""
        return repr(self.constraint())


class RealLine(ScalarSupport):
    """The identity."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns ``x`` and zeros."""
        return x, torch.zeros_like(x)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns ``y`` and zeros."""
        return y, torch.zeros_like(y)

    def constraint(self, columns: slice = ALL) -> Constraint:
        """The real line."""
        return constraints.real


class HalfLine(ScalarSupport):
    """``y = bound + exp(x)``, or ``bound - exp(x)`` below an upper bound."""

    bound: Bound

    def __init__(self, parts: Sequence[Any]) -> None:
        super().__init__(parts)
        below = self.kind is constraints.less_than
        self.sign = -1 if below else 1
        self._set_bound("bound", [p.upper_bound if below else p.lower_bound for p in parts])
        _check_finite(self.bound, parts)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps the line onto the half line."""
        bound = self._bound("bound", x)
        # An overflow would be infinite and its gradient NaN, even if clamped afterwards.
        limit = math.log(torch.finfo(x.dtype).max) - 1
        distance = x.clamp(-limit, limit).exp().clamp_min(_spacing(bound, x.dtype))
        return (bound - distance if self.sign < 0 else bound + distance), x

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Maps the half line onto the line."""
        bound = self._bound("bound", y)
        distance = bound - y if self.sign < 0 else y - bound
        distance = distance.clamp_min(_spacing(bound, y.dtype))
        x = distance.clamp_max(torch.finfo(y.dtype).max).log()
        return x, -x

    def constraint(self, columns: slice = ALL) -> Constraint:
        """The half line."""
        return self.kind(_part(self.bound, columns))


class Interval(ScalarSupport):
    """``y = lower + (upper - lower) * sigmoid(x)``."""

    lower: Bound
    upper: Bound

    def __init__(self, parts: Sequence[Any]) -> None:
        super().__init__(parts)
        self._set_bound("lower", [part.lower_bound for part in parts])
        self._set_bound("upper", [part.upper_bound for part in parts])
        _check_finite(self.lower, parts)
        _check_finite(self.upper, parts)
        if not _holds_everywhere(self.upper - self.lower, lambda width: width > 0):
            raise ValueError(
                f"ToSupport got {_names(parts)}, whose lower bound is not below the upper one. "
                "Pass interval(lower, upper) with lower < upper."
            )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps the line onto the interval."""
        lower, upper = self._bound("lower", x), self._bound("upper", x)
        width = upper - lower
        y = lower + width * torch.sigmoid(x)
        y = y.clamp_min(lower + _spacing(lower, x.dtype))
        y = y.clamp_max(upper - _spacing(upper, x.dtype))
        return y, F.logsigmoid(x) + F.logsigmoid(-x) + _log(width)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Maps the interval onto the line."""
        lower, upper = self._bound("lower", y), self._bound("upper", y)
        # From either bound by subtraction, which is exact near it; 1 - (y - lower) / width is not.
        log_above = (y - lower).clamp_min(_spacing(lower, y.dtype)).log()
        log_below = (upper - y).clamp_min(_spacing(upper, y.dtype)).log()
        return log_above - log_below, _log(upper - lower) - log_above - log_below

    def constraint(self, columns: slice = ALL) -> Constraint:
        """The interval."""
        return self.kind(_part(self.lower, columns), _part(self.upper, columns))


def _part(bound: Bound, columns: slice) -> Bound:
    return bound[columns] if isinstance(bound, Tensor) and bound.ndim else bound


def _spacing(bound: Bound, dtype: torch.dtype) -> Bound:
    """A distance from ``bound`` that a sum with it does not round away."""
    info = torch.finfo(dtype)
    if isinstance(bound, Tensor):
        return (bound.abs() * info.eps).clamp_min(info.tiny)
    return max(abs(bound) * info.eps, info.tiny)


def _log(value: Bound) -> Bound:
    return value.log() if isinstance(value, Tensor) else math.log(value)


def _check_finite(bound: Bound, parts: Sequence[Constraint]) -> None:
    if not _holds_everywhere(bound, lambda value: value.isfinite()):
        raise ValueError(
            f"ToSupport got {_names(parts)} with an infinite or undefined bound. Leave the bound "
            "out: greater_than(lower), less_than(upper) or real."
        )


def _holds_everywhere(value: Bound, condition: Callable[[Tensor], Tensor]) -> bool:
    """Whether all numbers meet the condition; on the meta device there are none to ask."""
    tensor = torch.as_tensor(value)
    return tensor.is_meta or bool(condition(tensor).all())


def _names(parts: Sequence[Constraint]) -> str:
    return ", ".join(repr(part) for part in parts)
