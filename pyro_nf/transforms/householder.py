"""Products of Householder reflections."""

from __future__ import annotations

from typing import Any, final

from pyro_nf._checks import positive_int
from pyro_nf.bijections import Householder as _Reflections
from pyro_nf.transforms._joint import JointWiring


@final
class Householder(JointWiring):
    r"""A product of K reflections, :math:`y = H_1 ⋯ H_K x`, :math:`H = I - 2 v v^\top / |v|^2`.

    An orthogonal map: its log-determinant is 0 and its inverse the transpose. D reflections reach
    every orthogonal matrix. With an even number the layer starts at the identity. Either direction
    costs O(KD + K²) a row, in two matrix products and one solve of size K instead of K steps.

    Args:
        input_dim: Number of dimensions D.
        count_transforms: Pyro's name for ``reflections``; None for that.
        reflections: Number of reflections K.
        **network: ``context_dim``, ``hidden_dims``, ``activation`` and ``residual``, as
            :class:`~pyro_nf.transforms.Joint` takes them.

    Raises:
        TypeError, ValueError: If a number is no positive integer.

    References:
        Improving Variational Auto-Encoders using Householder Flow (Tomczak & Welling, 2016),
        arXiv 1611.09630.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import Householder
        >>> layer = Householder(3, reflections=4)
        >>> y, ladj = layer.forward_and_ladj(torch.ones(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(
        self,
        input_dim: int,
        count_transforms: int | None = None,
        *,
        reflections: int = 2,
        **network: Any,
    ) -> None:
        count = reflections
        if count_transforms is not None:
            count = positive_int("Householder", "count_transforms", count_transforms)
        super().__init__(_Reflections(count), input_dim, **network)
