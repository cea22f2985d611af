"""What all affine maps with constant coefficients share: the walk between rows and columns."""

from __future__ import annotations

from torch import Tensor

from pyro_nf._checks import positive_int
from pyro_nf._precision import narrow, widen
from pyro_nf.transforms._contract.features import features_first, features_last
from pyro_nf.transforms._contract.protocol import FlowTransform


class AffineMap(FlowTransform):
    """An affine map y = W x + b whose coefficients depend on nothing (abstract).

    Subclasses map a matrix with one row of the batch in each column; half precision reaches them
    as float32. Each hook reads every parameter once: attributes may be sampled at each access.

    Args:
        input_dim: Number of dimensions D.
    """

    input_dim: int

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.input_dim = positive_int(type(self).__name__, "input_dim", input_dim)

    def _map_columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``(D, rows)`` base -> data; also returns the scalar ``log|det W|``."""
        raise NotImplementedError

    def _unmap_columns(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``(D, rows)`` data -> base; also returns the scalar ``-log|det W|``."""
        raise NotImplementedError

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps base to data."""
        h = features_first(self, x, context, "x")  # (D, *batch)
        return _as_pass(h, *self._map_columns(_columns(h)))

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to base."""
        h = features_first(self, y, context, "y")  # (D, *batch)
        return _as_pass(h, *self._unmap_columns(_columns(h)))

    @property
    def sign(self) -> int:
        """+1 for one dimension."""
        return 1 if self.input_dim == 1 else super().sign


def _columns(h: Tensor) -> Tensor:
    return widen(h.reshape(h.shape[0], -1))  # (D, rows)


def _as_pass(h: Tensor, columns: Tensor, log_det: Tensor) -> tuple[Tensor, Tensor]:
    """The result and the log-determinant of each row, in the shapes of the contract."""
    result = narrow(columns, h.dtype).reshape(h.shape)
    return features_last(result), log_det.to(result.dtype).expand(h.shape[1:])
