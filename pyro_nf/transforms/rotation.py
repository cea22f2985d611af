"""Rotations by the matrix exponential or Cayley's map."""

from __future__ import annotations

from typing import Any, Literal, final

from pyro_nf.bijections import Rotation as _Rotation
from pyro_nf.transforms._joint import JointWiring


@final
class Rotation(JointWiring):
    r"""A rotation, :math:`y = Q x`, made from the skew matrix :math:`A - A^\top`.

    A is strictly lower triangular: D(D−1)/2 parameters, no redundancy. The exponential reaches
    every rotation; Cayley's map costs less, and nears without reaching those that turn a plane by
    180°. Starts at the identity; the log-determinant is 0 and the inverse the transpose. Either
    direction costs O(D²) a row, after O(D³) once a pass (for each context, if there is one).

    Args:
        input_dim: Number of dimensions D.
        method: "exponential" or "cayley".
        **network: ``context_dim``, ``hidden_dims``, ``activation`` and ``residual``, as
            :class:`~pyro_nf.transforms.Joint` takes them.

    Raises:
        ValueError: If ``method`` is neither.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import Rotation
        >>> y, ladj = Rotation(3).forward_and_ladj(torch.ones(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(
        self,
        input_dim: int,
        *,
        method: Literal["exponential", "cayley"] = "exponential",
        **network: Any,
    ) -> None:
        super().__init__(_Rotation(method), input_dim, **network)
