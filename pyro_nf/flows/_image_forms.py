"""The image forms of named flows that exist for vectors too."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from pyro_nf.bijections import Affine, LogisticMixture
from pyro_nf.distributions import Flow
from pyro_nf.flows._assemble import Support
from pyro_nf.flows._images import (
    ImageShape,
    assemble_images,
    context_options,
    level_count,
    sizes,
    step,
)
from pyro_nf.nn import FieldConv, GatedConvNet, ResidualConvNet
from pyro_nf.nn._activations import Activation
from pyro_nf.nn._smooth import Smooth
from pyro_nf.nn._time_linear import TimeConditioning
from pyro_nf.transforms import (
    ActNorm2d,
    Continuous,
    Coupling2d,
    FlowTransform,
    InvertibleResidual2d,
    MultiLevel,
    Unsqueeze,
)
from pyro_nf.transforms._images.partition import PARITIES
from pyro_nf.transforms.coupling2d import MakeNetwork, Mask2d

_LAST_CHECKERBOARDS = 4


def realnvp_of_images(
    shape: ImageShape,
    *,
    levels: int | None,
    transforms: int | None,
    hidden_dims: Sequence[int] | None,
    context_dim: int,
    context_shape: ImageShape | None,
    activation: Activation,
    base: nn.Module | None,
    support: Support | None,
) -> Flow:
    """Creates Real NVP of images.

    Data -> base, a level takes couplings on alternating checkerboards, squeezes the image, and
    takes as many on alternating halves of the channels; the last level ends with four more
    checkerboards. A normalisation that starts from data stands before each coupling, where the
    paper normalises by batches.
    """
    owner = "realnvp"
    shape, transforms, hidden = sizes(
        owner,
        shape,
        transforms=transforms,
        hidden_dims=hidden_dims,
        small=(3, (32,)),
        large=(3, (64, 64, 64, 64)),
    )
    count = level_count(owner, shape, levels)
    network = partial(
        ResidualConvNet,
        hidden_channels=one_width(owner, hidden),
        blocks=len(hidden),
        activation=activation,
        **context_options(owner, context_dim, context_shape),
    )

    def couplings(channels: int, mask: Mask2d, number: int) -> list[FlowTransform]:
        return [
            layer
            for i in range(number)
            for layer in (
                Coupling2d(Affine(), channels, mask=mask, parity=PARITIES[i % 2], network=network),
                ActNorm2d(channels),
            )
        ]

    channels, chains = shape[0], []
    for level in range(count):
        fine = couplings(channels, "checkerboard", transforms)
        channels *= 4
        coarse = couplings(channels, "channels", transforms)
        if level == count - 1 and min(shape[1:]) >> count > 1:  # one pixel has no colours
            coarse = [*couplings(channels, "checkerboard", _LAST_CHECKERBOARDS), *coarse]
        chains.append([*coarse, Unsqueeze(), *fine])
        channels //= 2
    return assemble_images(owner, [MultiLevel(shape, chains, prior=network)], shape, base, support)


def flow_plus_plus_of_images(
    shape: ImageShape,
    *,
    transforms: int | None,
    components: int,
    hidden_dims: Sequence[int] | None,
    context_dim: int,
    context_shape: ImageShape | None,
    base: nn.Module | None,
    support: Support | None,
) -> Flow:
    """Creates Flow++ of images.

    Data -> base: couplings on alternating checkerboards at full size, the image squeezed once,
    then couplings on checkerboards and on the channels in turn. The bijection is the distribution
    function of a mixture of logistics, in closed form data -> base; the networks are gated
    convolutions with self-attention.
    """
    owner = "flow_plus_plus"
    shape, transforms, hidden = sizes(
        owner,
        shape,
        transforms=transforms,
        hidden_dims=hidden_dims,
        small=(2, (32,)),
        large=(4, (64, 64, 64, 64)),
    )
    level_count(owner, shape, 1)  # raises where it cannot be squeezed
    network = gated_networks(owner, hidden, context_options(owner, context_dim, context_shape))
    mixture = LogisticMixture(components=components)
    channels, layers = shape[0], list[FlowTransform]()
    for i in range(transforms):
        layers += step(mixture, 4 * channels, network, seed=i, data_to_base=True)
        if min(shape[1:]) > 2:  # the one pixel that is left of two has no colours
            layers += checkerboard(mixture, 4 * channels, network, i)
    layers.append(Unsqueeze())
    for i in range(transforms):
        layers += checkerboard(mixture, channels, network, i)
    return assemble_images(owner, [MultiLevel(shape, [layers])], shape, base, support)


def checkerboard(
    mixture: LogisticMixture, channels: int, network: MakeNetwork, index: int
) -> list[FlowTransform]:
    """Creates a coupling on a checkerboard that runs data -> base, and a normalisation."""
    coupling = Coupling2d(
        mixture, channels, mask="checkerboard", parity=PARITIES[index % 2], network=network
    )
    return [coupling.inv, ActNorm2d(channels)]


def gated_networks(owner: str, hidden: tuple[int, ...], context: dict[str, Any]) -> MakeNetwork:
    """The networks of Flow++, a block for each hidden width."""
    return partial(
        GatedConvNet, hidden_channels=one_width(owner, hidden), blocks=len(hidden), **context
    )


def residual_flow_of_images(
    shape: ImageShape,
    *,
    levels: int | None,
    transforms: int | None,
    hidden_dims: Sequence[int] | None,
    base: nn.Module | None,
    support: Support | None,
    **options: Any,
) -> Flow:
    """Creates a residual flow of images: convolutional contractions, between which it squeezes."""
    shape, transforms, hidden = sizes(
        "residual_flow",
        shape,
        transforms=transforms,
        hidden_dims=hidden_dims,
        small=(4, (32, 32)),
        large=(8, (64, 64)),
    )
    count = level_count("residual_flow", shape, levels)
    channels, height, width = shape
    layers: list[FlowTransform] = []
    for _ in range(count):
        channels, height, width = 4 * channels, height // 2, width // 2
        steps: list[FlowTransform] = []
        for _ in range(transforms):
            block = InvertibleResidual2d(
                (channels, height, width), hidden_channels=hidden, **options
            )
            steps += [block, ActNorm2d(channels)]
        layers = [*steps, Unsqueeze(), *layers]
    return assemble_images("residual_flow", [MultiLevel(shape, [layers])], shape, base, support)


def cnf_of_images(
    shape: ImageShape,
    *,
    transforms: int,
    hidden_dims: Sequence[int] | None,
    context_dim: int,
    activation: Smooth,
    time: TimeConditioning,
    base: nn.Module | None,
    support: Support | None,
    **options: Any,
) -> Flow:
    """Creates a continuous flow of images, whose field is a convolutional network."""
    shape, transforms, hidden = sizes(
        "cnf",
        shape,
        transforms=transforms,
        hidden_dims=hidden_dims,
        small=(1, (32, 32)),
        large=(1, (64, 64)),
    )
    layers: list[FlowTransform] = [
        Continuous(
            FieldConv(shape[0], hidden, context_dim=context_dim, activation=activation, time=time),
            input_dim=shape,
            context_dim=context_dim,
            **options,
        )
        for _ in range(transforms)
    ]
    return assemble_images(
        "cnf", [MultiLevel(shape, [[*layers, ActNorm2d(shape[0])]])], shape, base, support
    )


def one_width(owner: str, hidden: tuple[int, ...]) -> int:
    """The width of a network of equal residual blocks."""
    if not hidden or len(set(hidden)) > 1:
        raise ValueError(
            f"{owner} got hidden_dims={hidden} for images, whose networks are residual blocks of "
            "one width. Pass one number for each block, all equal: (64, 64)."
        )
    return hidden[0]
