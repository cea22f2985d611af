"""A full linear map by its QR factors."""

from __future__ import annotations

from typing import Any, Literal, final

from pyro_nf.bijections import QRLinear as _QR
from pyro_nf.transforms._joint import JointWiring


@final
class QRLinear(JointWiring):
    r"""A linear map by its factors, :math:`y = Q \operatorname{diag}(e^s)(I + U) x + b`.

    Q is a product of Householder reflections and U strictly upper triangular. With at least D
    reflections, every invertible matrix is of this form up to one sign, but for scales outside
    of :math:`e^{\pm 5}` (see :class:`pyro_nf.bijections.QRLinear`).

    Starts at the identity if the number of reflections is even. Either direction costs O(D² + KD)
    a row for K reflections, the log-determinant :math:`\sum_i s_i` O(D).

    Args:
        input_dim: Number of dimensions D.
        reflections: Number of reflections K; None takes the smallest even number that reaches
            every rotation.
        bias: "learned" adds b, which starts at 0; "none" does not.
        **network: ``context_dim``, ``hidden_dims``, ``activation`` and ``residual``, as
            :class:`~pyro_nf.transforms.Joint` takes them.

    Raises:
        ValueError: If ``bias`` is neither, or ``reflections`` not positive.

    References:
        Emerging Convolutions for Generative Normalizing Flows (Hoogeboom et al., 2019),
        arXiv 1901.11137, section 3.3.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import QRLinear
        >>> layer = QRLinear(3)
        >>> y, ladj = layer.forward_and_ladj(torch.ones(5, 3))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(
        self,
        input_dim: int,
        *,
        reflections: int | None = None,
        bias: Literal["learned", "none"] = "learned",
        **network: Any,
    ) -> None:
        super().__init__(_QR(reflections, bias), input_dim, **network)
