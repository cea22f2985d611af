"""Invertible residual layers of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from pyro_nf._checks import checked_image_shape
from pyro_nf.bijections import Root
from pyro_nf.nn._contractive import Contractive
from pyro_nf.nn._spectral_conv import ConvNorm
from pyro_nf.nn.lipschitz_conv import LipschitzConvNet
from pyro_nf.transforms._images.image_transform import ImageTransform
from pyro_nf.transforms._residual.layer import Fast, ResidualLayer, contraction_bound
from pyro_nf.transforms._residual.log_det import LogDet
from pyro_nf.transforms._residual.options import LogDetSeries


@final
class InvertibleResidual2d(ResidualLayer, ImageTransform):
    r"""A residual layer of images that is invertible because its convolutions are a contraction.

    .. math:: v = u + g(u, c), \qquad |g(u, c) - g(u', c)| \le L |u - u'|, \quad L < 1

    with a convolutional network g. The side u is the data with ``fast="log_prob"`` (data -> base
    is the closed form) and the base draw with ``fast="sample"``. All channels and neighbouring
    pixels interact; a layer stretches between 1 - L and 1 + L times.

    The slow direction is the fixed point of u = v - g(u), by Anderson's acceleration (5 to 30
    evaluations of g), with derivatives by the implicit function theorem.

    The log-determinant of I + J, J the Jacobian of g, of D = C H W numbers is exact, a truncated
    series or the unbiased roulette, as in :class:`~pyro_nf.transforms.InvertibleResidual`: "auto"
    is exact for D ≤ 64, in evaluation for D ≤ 512; beyond, the roulette in training and the series
    in evaluation. An exact one takes at most :math:`C r^2` tangents through the network, r the
    side of what an output pixel sees (5 for kernels of 3×3, 1×1 and 3×3), and a factorisation,
    O(D³) an image.

    Warning:
        ``norm="power"`` moves its buffers in training, data -> base, with gradients on. Pyro's
        parameter store does not keep buffers; a few more steps, or ``refine`` on the network,
        restore them.

    Args:
        image_shape: ``(channels, height, width)`` of the images.
        fast: The direction in closed form, "log_prob" or "sample".
        hidden_channels: Channels of the network's hidden layers.
        kernel_sizes: Odd side lengths of the convolutions in pixels, one for each hidden layer
            and one for the output. If None, 3 for the first and the last, 1 between.
        lipschitz: The bound L, inside (0, 1).
        context_dim: Length of a context that is a vector; 0 for none.
        context_shape: ``(channels, height, width)`` of a context that is a feature map, given
            flattened: ``context_dim`` is then their product.
        activation: As for :class:`~pyro_nf.nn.LipschitzConvNet`.
        norm: As for :class:`~pyro_nf.nn.LipschitzConvNet`.
        log_det: "auto", "exact", "series" or "roulette".
        series: The options of the estimates.
        root: Budget and tolerance of the fixed point.

    Raises:
        TypeError: If an option is of another type.
        ValueError: If a size is out of range or an option unknown.
        ConvergenceError: In the slow direction, if an image is not found within the budget.

    References:
        - Invertible residual networks (Behrmann et al., 2019), arXiv:1811.00995.
        - Residual flows for invertible generative modeling (Chen et al., 2019),
          arXiv:1906.02735.

    Examples:
        >>> import torch
        >>> layer = InvertibleResidual2d((3, 4, 4), fast="log_prob", hidden_channels=(16, 16))
        >>> x, ladj = layer.inverse_and_ladj(torch.ones(5, 3, 4, 4))
        >>> x.shape, ladj.shape
        (torch.Size([5, 3, 4, 4]), torch.Size([5]))
        >>> bool(layer.lipschitz_bound() < 1)
        True
    """

    network: LipschitzConvNet

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        fast: Fast,
        hidden_channels: Sequence[int] = (32, 32),
        kernel_sizes: Sequence[int] | None = None,
        lipschitz: float = 0.97,
        context_dim: int = 0,
        context_shape: Sequence[int] | None = None,
        activation: Contractive = "concat_lipswish",
        norm: ConvNorm = "auto",
        log_det: LogDet = "auto",
        series: LogDetSeries | None = None,
        root: Root | None = None,
    ) -> None:
        owner = "InvertibleResidual2d"
        shape = checked_image_shape(owner, "image_shape", image_shape)
        network = LipschitzConvNet(
            shape,
            hidden_channels,
            lipschitz=contraction_bound(owner, lipschitz),
            kernel_sizes=kernel_sizes,
            context_dim=context_dim,
            context_shape=context_shape,
            activation=activation,
            norm=norm,
        )
        super().__init__(shape[0], network.context_dim)
        self.image_shape = shape
        self._contract(
            network, math.prod(shape), fast=fast, log_det=log_det, series=series, root=root
        )

    def _columns(
        self, value: Tensor, context: Tensor | None, name: str
    ) -> tuple[Tensor, torch.Size]:
        rows, batch = self._rows(value, context, name)
        # The transpose of pixels in rows is what the network reads without a copy.
        return rows.movedim(1, -1).flatten(1).t(), batch

    def _events(self, columns: Tensor, batch: torch.Size) -> Tensor:
        channels, height, width = self.image_shape
        return columns.t().reshape(*batch, height, width, channels).movedim(-1, -3)

    def _check_image(self, shape: torch.Size, name: str) -> torch.Size:
        if len(shape) < 3 or shape[-3:] != self.image_shape:
            raise ValueError(
                f"{type(self).__name__}(image_shape={self.image_shape}) got {name} of shape "
                f"{tuple(shape)}; expected shape (*batch, {str(self.image_shape)[1:]}."
            )
        return shape

    def extra_repr(self) -> str:
        """The image's shape and the fast direction."""
        context = f", context_dim={self.context_dim}" if self.context_dim else ""
        return f"{self.image_shape}{context}, fast={self.fast!r}"
