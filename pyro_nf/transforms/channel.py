"""Invertible 1×1 convolutions of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from torch import Tensor

from pyro_nf._checks import positive_int
from pyro_nf.bijections import LULinear
from pyro_nf.transforms._images.channel_map import ChannelMap
from pyro_nf.transforms.joint import Joint
from pyro_nf.transforms.permutation import Permutation


@final
class GeneralizedChannelPermute(ChannelMap):
    r"""One linear map of the channels at every pixel, an invertible 1×1 convolution.

    .. math:: y_{:,h,w} = W x_{:,h,w}, \qquad W = P \operatorname{diag}(e^s)(I + L)(I + U), \qquad
        \log|\det dy/dx| = H W \sum_i s_i

    A permutation P of the channels, made trainable: :class:`InvertibleConv1x1` by its LU factors,
    under Pyro's name and starting at P. Events are images (C, H, W) of any height and width.
    Either direction costs O(C²) a pixel in one product, after O(C³) once a pass for each context.

    Args:
        channels: Number of channels C.
        permutation: P, the channels in the wanted order; None for what ``seed`` says.
        seed: Seed of the generator that draws P; None takes the identity, where the layer starts.
        **network: ``context_dim``, ``hidden_dims``, ``activation`` and ``residual``, as
            :class:`~pyro_nf.transforms.Joint` takes them: the context changes W.

    Raises:
        TypeError, ValueError: If a size is no positive integer.

    References:
        Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
        arXiv 1807.03039, section 3.2.

    Examples:
        >>> import torch
        >>> from pyro_nf.transforms import GeneralizedChannelPermute
        >>> layer = GeneralizedChannelPermute(3, seed=0)
        >>> y, ladj = layer.forward_and_ladj(torch.zeros(5, 3, 8, 8))
        >>> y.shape, ladj.shape
        (torch.Size([5, 3, 8, 8]), torch.Size([5]))
    """

    def __init__(
        self,
        channels: int = 3,
        permutation: Sequence[int] | Tensor | None = None,
        *,
        seed: int | None = None,
        **network: Any,
    ) -> None:
        positive_int("GeneralizedChannelPermute", "channels", channels)
        super().__init__(Joint(LULinear("none", seed), channels, **network))
        if permutation is not None:
            order = Permutation(permutation).permutation
            if len(order) != channels:
                raise ValueError(
                    f"GeneralizedChannelPermute(channels={channels}) got a permutation of "
                    f"{len(order)}. Pass each channel once."
                )
            self.mixing.permutation = order
