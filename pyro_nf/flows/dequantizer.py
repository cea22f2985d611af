"""The flow of the noise that makes integers real."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import torch

from pyro_nf.bijections import LogisticMixture, ScalarBijection
from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.flows._image_forms import gated_networks
from pyro_nf.flows._images import ImageShape, sizes
from pyro_nf.transforms import ActNorm2d, Coupling2d, FlowTransform, Logit, Reshape
from pyro_nf.transforms._images.partition import PARITIES

# With it the sigmoid of a normal number is nearly uniform.
_LOG_SPREAD = math.log(1.7)


def dequantizer(
    image_shape: ImageShape,
    *,
    transforms: int | None = None,
    bijection: ScalarBijection | None = None,
    hidden_dims: Sequence[int] | None = None,
) -> Flow:
    r"""Creates the noise of variational dequantisation: a flow in (0, 1) given an integer image.

    .. math:: u = \sigma(g(\varepsilon; x)), \qquad \varepsilon \sim N(0, 1)

    with couplings g on alternating checkerboards, whose gated convolutional networks with
    self-attention read the image x. Fresh, u is nearly uniform. Pass it as ``dequantizer`` to
    :class:`~pyro_nf.distributions.Dequantized`, which gives it the image as its context: flattened
    and scaled to [-1, 1].

    Cost: one pass for a draw with its density, all that dequantisation asks for.

    Args:
        image_shape: Channels, height and width.
        transforms: Number of couplings; None for 2.
        bijection: What they move pixels by; None for
            :class:`~pyro_nf.bijections.LogisticMixture` with 8 components.
        hidden_dims: Channels of each gated block of a network, all equal; None for (16,),
            beyond 16 × 16 pixels (32, 32).

    Raises:
        TypeError, ValueError: If a size is out of range.

    References:
        Flow++: improving flow-based generative models with variational dequantization and
        architecture design (Ho et al., 2019), arXiv:1902.00275, section 3.1.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> noise = flows.dequantizer((1, 8, 8), hidden_dims=(8,))
        >>> noise(torch.zeros(5, 64)).sample().shape
        torch.Size([5, 1, 8, 8])
    """
    shape, transforms, hidden = sizes(
        "dequantizer",
        image_shape,
        transforms=transforms,
        hidden_dims=hidden_dims,
        small=(2, (16,)),
        large=(2, (32, 32)),
    )
    network = gated_networks("dequantizer", hidden, {"context_shape": shape})
    moved_by = LogisticMixture() if bijection is None else bijection
    couplings: list[FlowTransform] = [
        Coupling2d(
            moved_by, shape[0], mask="checkerboard", parity=PARITIES[i % 2], network=network
        )
        for i in range(transforms)
    ]
    spread = ActNorm2d(shape[0])
    with torch.no_grad():
        spread.log_scale.fill_(_LOG_SPREAD)
    layers = chain([Reshape((math.prod(shape),), shape)], couplings, [spread])
    return Flow(DiagonalNormal(math.prod(shape)), [*layers, Logit(alpha=0.0)])
