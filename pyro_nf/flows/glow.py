"""Glow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn
from torch.distributions import constraints

from pyro_nf.bijections import Affine, ScalarBijection
from pyro_nf.distributions import Flow
from pyro_nf.flows._images import (
    ImageShape,
    assemble_images,
    context_options,
    level_count,
    sizes,
    step,
)
from pyro_nf.nn import ConvNet
from pyro_nf.nn._activations import Activation
from pyro_nf.transforms import FlowTransform, MultiLevel, Unsqueeze


def glow(
    image_shape: ImageShape,
    *,
    levels: int | None = None,
    transforms: int | None = None,
    hidden_dims: Sequence[int] | None = None,
    bijection: ScalarBijection | None = None,
    context_dim: int = 0,
    context_shape: ImageShape | None = None,
    activation: Activation = "relu",
    base: nn.Module | None = None,
    support: constraints.Constraint | None = None,
) -> Flow:
    """Creates Glow: a multi-level flow of images, of couplings and invertible 1×1 convolutions.

    Data -> base, each level squeezes the image, then takes steps of an activation normalisation, a
    1×1 convolution and an affine coupling; half of the channels leaves at its end, with a learned
    prior given the other half. The base side is one flat vector of all levels' latents (see
    :class:`~pyro_nf.transforms.MultiLevel`), so the flow's transform maps ``(*batch, D)`` to
    ``(*batch, C, H, W)``.

    ``initialize``, which ``fit_density`` calls, sets the normalisations from data. Integers are
    scored by :class:`~pyro_nf.distributions.Dequantized`. Cost: one pass in either direction.

    Args:
        image_shape: Channels C, height H and width W.
        levels: Number of levels, each of which halves height and width; None for as many as the
            image allows, 3 at most.
        transforms: Number of steps in a level; None for 8, beyond 16 × 16 pixels 16.
        hidden_dims: Channels of the two hidden layers of each coupling's network; None for 64,
            beyond 16 × 16 pixels 128.
        bijection: What the couplings move channels by; None for
            :class:`~pyro_nf.bijections.Affine`.
        context_dim: Size of a context; a label is one as a one-hot vector. 0 for none.
        context_shape: Shape (channels, height, width) of a context that is a feature map, which
            enters the flow flattened.
        activation: The networks' activation: a name, a function or a module.
        base: Base distribution of flat vectors as a module; standard normal by default.
        support: ``constraints.unit_interval`` for images in [0, 1], whose logits are modelled;
            None for real numbers.

    Raises:
        TypeError, ValueError: If a size is out of range, or the image cannot be halved so often.

    References:
        Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
        arXiv:1807.03039.

    Examples:
        >>> import torch
        >>> from pyro_nf import flows
        >>> flow = flows.glow((1, 8, 8), transforms=2, hidden_dims=(16, 16), context_dim=10)
        >>> d = flow(torch.eye(10))
        >>> d.sample().shape, d.log_prob(torch.zeros(1, 8, 8)).shape
        (torch.Size([10, 1, 8, 8]), torch.Size([10]))
    """
    shape, transforms, hidden = sizes(
        "glow",
        image_shape,
        transforms=transforms,
        hidden_dims=hidden_dims,
        small=(8, (64, 64)),
        large=(16, (128, 128)),
    )
    count = level_count("glow", shape, levels)
    network = partial(
        ConvNet,
        hidden_channels=hidden,
        activation=activation,
        **context_options("glow", context_dim, context_shape),
    )
    moved_by = Affine() if bijection is None else bijection
    channels, chains = shape[0], []
    for level in range(count):
        channels *= 4
        layers: list[FlowTransform] = []
        for i in range(transforms):
            layers += step(moved_by, channels, network, seed=level * transforms + i)
        chains.append([*layers, Unsqueeze()])
        channels //= 2
    return assemble_images(
        "glow", [MultiLevel(shape, chains, prior=network)], shape, base, support
    )
