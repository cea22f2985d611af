"""A full linear map by its LU factors."""

from __future__ import annotations

from typing import Any, Literal, final

from torch import Tensor

from pyro_nf.bijections import LULinear as _LU
from pyro_nf.transforms._joint import JointWiring


@final
class LULinear(JointWiring):
    r"""A linear map by its factors, :math:`y = P \operatorname{diag}(e^s)(I + L)(I + U) x + b`.

    L is strictly lower and U strictly upper triangular, P a fixed permutation: every matrix PLU
    with unit lower L and positive diagonal of U (see :class:`pyro_nf.bijections.LULinear`).

    Starts at P. Either direction costs O(D²) a row (data -> base: two triangular solves), the
    log-determinant :math:`\sum_i s_i` O(D).

    Args:
        input_dim: Number of dimensions D.
        bias: "learned" adds b, which starts at 0; "none" does not.
        seed: Seed of the generator that draws P; None takes the identity.
        **network: ``context_dim``, ``hidden_dims``, ``activation`` and ``residual``, as
            :class:`~pyro_nf.transforms.Joint` takes them.

    Raises:
        ValueError: If ``bias`` is neither.

    References:
        Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
        arXiv 1807.03039, section 3.2.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import LULinear
        >>> layer = LULinear(3, seed=0)
        >>> y, ladj = layer.forward_and_ladj(torch.ones(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    permutation: Tensor

    def __init__(
        self,
        input_dim: int,
        *,
        bias: Literal["learned", "none"] = "learned",
        seed: int | None = None,
        **network: Any,
    ) -> None:
        super().__init__(_LU(bias, seed), input_dim, **network)
