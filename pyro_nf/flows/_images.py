"""What the named flows of images share: their sizes by default, their levels, their ends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn
from torch.distributions import constraints

from pyro_nf._checks import checked_image_shape, hidden_sizes, positive_int
from pyro_nf.bijections import ScalarBijection
from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.flows._assemble import Support
from pyro_nf.nn._conditions import context_size
from pyro_nf.transforms import (
    ActNorm2d,
    Coupling2d,
    FlowTransform,
    InvertibleConv1x1,
    Logit,
)
from pyro_nf.transforms.coupling2d import MakeNetwork

if TYPE_CHECKING:
    from typing_extensions import TypeIs

ImageShape = Sequence[int]

_MOST_LEVELS = 3


class Sizes(NamedTuple):
    """An image flow's sizes, as given or by the size of the image.

    Attributes:
        shape: Channels, height and width.
        transforms: Number of layers, or steps, in a level.
        hidden: Channels of the networks' hidden layers.
    """

    shape: tuple[int, int, int]
    transforms: int
    hidden: tuple[int, ...]


def is_image(size: int | ImageShape) -> TypeIs[ImageShape]:
    """Whether a named flow got the shape of an image instead of a number of dimensions."""
    return isinstance(size, Sequence) and not isinstance(size, str)


def sizes(
    owner: str,
    shape: ImageShape,
    *,
    transforms: int | None,
    hidden_dims: Sequence[int] | None,
    small: tuple[int, tuple[int, ...]],
    large: tuple[int, tuple[int, ...]],
) -> Sizes:
    """Checks sizes, and chooses those left open.

    Args:
        owner: The flow's name, for the messages.
        shape: Channels, height and width.
        transforms: Number of layers in a level, or None.
        hidden_dims: Channels of the hidden layers, or None.
        small: Layers in a level and hidden channels of images up to 16 × 16.
        large: The same of larger ones.
    """
    channels, height, width = checked_image_shape(owner, "image_shape", shape)
    own_transforms, own_hidden = small if max(height, width) <= 16 else large
    return Sizes(
        (channels, height, width),
        own_transforms if transforms is None else positive_int(owner, "transforms", transforms),
        own_hidden if hidden_dims is None else hidden_sizes(owner, "hidden_dims", hidden_dims),
    )


def level_count(owner: str, shape: tuple[int, int, int], levels: int | None) -> int:
    """Returns the number of levels, each of which halves height and width.

    None takes as many as leave two rows and columns, one at least and three at most.
    """
    _, height, width = shape
    most = usual = 0
    for size in (math.gcd(height, width) >> i for i in range(height.bit_length())):
        if size % 2:
            break
        most += 1
        usual += min(height, width) >> most >= 2
    wanted = 1 if levels is None else positive_int(owner, "levels", levels)
    if wanted > most:
        remedy = f"Pass levels={most}." if most else "Pad them to an even height and width."
        raise ValueError(
            f"{owner} got images of {height} × {width} pixels, which can be halved {most} times, "
            f"for {wanted} level(s). {remedy}"
        )
    return min(max(usual, 1), _MOST_LEVELS) if levels is None else wanted


def context_options(
    owner: str, context_dim: int, context_shape: ImageShape | None
) -> dict[str, Any]:
    """The options with which a network takes the flow's context, a vector or a feature map."""
    context_size(owner, context_dim, context_shape)  # raises under the flow's name
    return {"context_dim": context_dim, "context_shape": context_shape}


def only_for_vectors(owner: str, **given: tuple[Any, Any]) -> None:
    """Raises if an option of vector flows, ``name=(value, default)``, is set for images."""
    for name, (value, default) in given.items():
        if value != default:
            raise ValueError(
                f"{owner} got {name}={value!r} for images, whose flow has no such option. Leave "
                "it out."
            )


def only_for_images(owner: str, **given: Any) -> None:
    """Raises if an option of image flows is set for vectors."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{owner} got {name}={value!r} for vectors. Leave it out, or pass the shape of an "
                "image, such as (3, 32, 32), for input_dim."
            )


def step(
    bijection: ScalarBijection,
    channels: int,
    network: MakeNetwork,
    *,
    seed: int,
    data_to_base: bool = False,
) -> list[FlowTransform]:
    """Creates a step of Glow, base -> data: coupling, 1×1 convolution, activation normalisation.

    Args:
        bijection: The coupling's.
        channels: Number of channels, at least 2.
        network: The coupling's.
        seed: Of the convolution's first rotation.
        data_to_base: Whether the bijection itself runs data -> base.
    """
    coupling = Coupling2d(bijection, channels, network=network)
    return [
        coupling.inv if data_to_base else coupling,
        InvertibleConv1x1(channels, seed=seed).inv,  # its product, not its inverse, data -> base
        ActNorm2d(channels),
    ]


def assemble_images(
    owner: str,
    layers: Iterable[FlowTransform],
    shape: tuple[int, int, int],
    base: nn.Module | None,
    support: Support | None,
) -> Flow:
    """Creates a flow of layers from flat vectors to images, on real numbers or on [0, 1]."""
    ends: list[FlowTransform] = []
    if support is not None:
        inner: Any = support
        while isinstance(inner, constraints.independent):
            inner = inner.base_constraint
        if inner is not constraints.unit_interval:
            raise ValueError(
                f"{owner} got support={support!r} for images. Pass None for real numbers, or "
                "torch.distributions.constraints.unit_interval for numbers in [0, 1]."
            )
        ends = [Logit()]
    return Flow(DiagonalNormal(math.prod(shape)) if base is None else base, [*layers, *ends])
