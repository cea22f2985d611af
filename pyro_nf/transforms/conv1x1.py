"""Invertible 1×1 convolutions."""

from __future__ import annotations

from typing import Any, Literal, final

from pyro_nf._checks import choice, positive_int
from pyro_nf.transforms._images.channel_map import ChannelMap
from pyro_nf.transforms._images.channel_weights import PlainWeight, PLUWeight, QRWeight
from pyro_nf.transforms.joint import Joint

_WEIGHTS = {"plu": PLUWeight, "qr": QRWeight, "plain": PlainWeight}


@final
class InvertibleConv1x1(ChannelMap):
    r"""One linear map of the channels at every pixel, :math:`y_{:,h,w} = W x_{:,h,w}`.

    The matrix W, C×C, is learned in one of three forms:

    - "plu": :math:`W = P \operatorname{diag}(e^s)(I + L)(I + U) \operatorname{diag}(σ)`, triangles
      between a fixed permutation P and fixed signs σ; never singular.
    - "qr": :math:`W = Q \operatorname{diag}(e^s)(I + U) \operatorname{diag}(σ)`, with Q a product
      of C reflections; never singular, and with |s| < 5 never near it.
    - "plain": W itself. It may become singular: a pass then raises ``torch.linalg.LinAlgError``
      on a CPU, and gives NaN on an accelerator, compiled or mapped, never finite garbage.

    All three start at the same rotation, drawn from ``seed``. So a fresh layer is not the
    identity, but a rotation keeps volumes and the standard normal as they are.

    Cost of either direction: O(C²) a pixel in one product, after O(C³) once a pass (for each
    context, if there is one) for W or its inverse. The log-determinant is :math:`H W \sum_i s_i`;
    "plain" finds it in O(C³) from LU factors.

    Args:
        channels: Number of channels C.
        weight: "plu", "qr" or "plain".
        seed: Seed of the rotation at which W starts; None starts at the identity.
        **network: ``context_dim``, ``hidden_dims``, ``activation`` and ``residual``, as
            :class:`~pyro_nf.transforms.Joint` takes them: the context changes W.

    Raises:
        TypeError, ValueError: If a size is no positive integer, or ``weight`` none of the three.
        torch.linalg.LinAlgError: In use, if a "plain" matrix is singular and the host can see it.

    References:
        Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
        arXiv:1807.03039, section 3.2; for "qr", Emerging Convolutions for Generative Normalizing
        Flows (Hoogeboom et al., 2019), arXiv:1901.11137, section 3.3.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import InvertibleConv1x1
        >>> layer = InvertibleConv1x1(3)
        >>> y, ladj = layer.forward_and_ladj(torch.ones(5, 3, 8, 8))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3, 8, 8]), torch.Size([5]))
        >>> bool((y.square().sum(1) - 3).abs().max() < 1e-5)  # a rotation keeps lengths
        True
    """

    def __init__(
        self,
        channels: int,
        weight: Literal["plu", "qr", "plain"] = "plu",
        *,
        seed: int | None = 0,
        **network: Any,
    ) -> None:
        positive_int("InvertibleConv1x1", "channels", channels)
        form = _WEIGHTS[choice("InvertibleConv1x1", "weight", weight, tuple(_WEIGHTS))]
        super().__init__(Joint(form(seed), channels, **network))
