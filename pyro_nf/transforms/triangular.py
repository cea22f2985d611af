"""A lower triangular affine map: any multivariate normal from a standard one."""

from __future__ import annotations

from typing import Any, final

from pyro_nf.bijections import TriangularAffine as _Triangular
from pyro_nf.transforms._joint import JointWiring


@final
class TriangularAffine(JointWiring):
    r"""A lower triangular affine map, :math:`y = L x + b`: on a standard normal, any normal.

    :math:`L = \operatorname{diag}(e^s)(I + N/\sqrt D)` with N strictly lower triangular covers
    every lower triangular matrix with a positive diagonal, the Cholesky factor of any covariance.
    Starts at the identity. Either direction costs O(D²) a row; the log-determinant is
    :math:`\sum_i s_i`.

    Args:
        input_dim: Number of dimensions D.
        **network: ``context_dim``, ``hidden_dims``, ``activation`` and ``residual``, as
            :class:`~pyro_nf.transforms.Joint` takes them.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import TriangularAffine
        >>> layer = TriangularAffine(3)
        >>> y, ladj = layer.forward_and_ladj(torch.zeros(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(self, input_dim: int, **network: Any) -> None:
        super().__init__(_Triangular(), input_dim, **network)
