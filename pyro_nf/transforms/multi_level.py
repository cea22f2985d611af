"""Multi-level flows of images: at each level half of the channels goes its own way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast, final

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from pyro_nf._checks import checked_image_shape
from pyro_nf.bijections import Affine
from pyro_nf.nn import ConvNet
from pyro_nf.transforms._contract.boundary import check_context, check_event, check_tensor
from pyro_nf.transforms._contract.features import sum_rightmost
from pyro_nf.transforms._contract.protocol import FlowTransform
from pyro_nf.transforms._support.same import is_interval
from pyro_nf.transforms.compose import Compose
from pyro_nf.transforms.coupling2d import Coupling2d, MakeNetwork


@final
class MultiLevel(FlowTransform):
    r"""A bijection between a flat vector and an image, with a latent image at every level.

    Data -> base, level i maps an image by its own layers, then parts its channels: the first half
    h goes on to the next level, the other half z₁ leaves. What leaves is standardised by a learned
    conditional normal, its *prior* given what stays,

    .. math:: z_1 = \mu(h) + \sigma(h) \odot \varepsilon,

    which is an affine map of ε whose parameters come from h: a coupling. So the whole is one
    bijection between the image and the vector of all ε, of the same size, and on a standard normal
    base the levels' priors are what Glow and Real NVP call their learned priors. A base with
    another scale (a temperature) scales them too.

    Cost: one pass of every level in either direction; later levels work on fewer numbers.

    Args:
        image_shape: Channels, height and width of the data.
        levels: The layers of each level, base -> data, from the level nearest the data on: usually
            couplings, 1×1 convolutions and normalisations, then an ``Unsqueeze``. Each is a layer
            or a sequence of them.
        prior: Makes the network of each level's prior, as :class:`Coupling2d` takes it, zero at
            first; None for standard normals.

    Raises:
        TypeError: If a level holds something else than transforms.
        ValueError: If there is no level, or the image does not fit through the levels: a height
            that cannot be squeezed, say, or one channel that cannot be parted.

    References:
        - Density estimation using Real NVP (Dinh et al., 2017), arXiv:1605.08803, section 3.6.
        - Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
          arXiv:1807.03039, and the learned priors of its reference code.

    Examples:
        >>> import torch
        >>> from pyro_nf.bijections import Affine
        >>> from pyro_nf.transforms import Coupling2d, MultiLevel, Unsqueeze
        >>> levels = [[Coupling2d(Affine(), c), Unsqueeze()] for c in (4, 8)]
        >>> layer = MultiLevel((1, 8, 8), levels)
        >>> y, ladj = layer.forward_and_ladj(torch.zeros(5, 64))
        >>> y.shape, ladj.shape, layer.latent_shapes
        (torch.Size([5, 1, 8, 8]), torch.Size([5]), [(2, 4, 4), (8, 2, 2)])
    """

    input_dim: int

    def __init__(
        self,
        image_shape: Sequence[int],
        levels: Iterable[FlowTransform | Iterable[FlowTransform]],
        *,
        prior: MakeNetwork | None = ConvNet,
    ) -> None:
        super().__init__()
        self.image_shape = checked_image_shape("MultiLevel", "image_shape", image_shape)
        self.input_dim = math.prod(self.image_shape)
        given = _listed(levels)
        chains, shape = [], torch.Size(self.image_shape)
        self.latent_shapes: list[tuple[int, int, int]] = []
        for i, layers in enumerate(given):
            shape = Compose(layers)._inverse_shape(shape)  # raises where the sizes do not fit
            channels, *size = _parted(i, shape, last := i == len(given) - 1)
            own = channels if last else channels - channels // 2
            self.latent_shapes.append(cast("tuple[int, int, int]", (own, *size)))
            if prior is not None and not last:
                layers = [Coupling2d(Affine(), channels, network=prior), *layers]
            chains.append(Compose(layers))
            if is_interval(chains[-1].domain):
                raise ValueError(
                    f"MultiLevel got a level {i} on {chains[-1].domain!r} at its base side. Start "
                    "a level's layers with one of the real line."
                )
            shape = torch.Size([channels - own, *size])
        self.levels = cast("Sequence[Compose]", nn.ModuleList(chains))
        # Only a chain can say whether its parts agree about the context.
        self.context_dim = Compose(chains).context_dim

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps a flat vector to an image, from the last level to the first."""
        check_tensor("MultiLevel", "x", x)
        check_event(self, x.shape, "x")
        check_context(self, context)
        *others, image = self.latents(x)
        total: Any = 0
        for i in range(len(self.levels))[::-1]:
            level = self.levels[i]
            image, ladj = level.forward_and_ladj(image, context if level.context_dim else None)
            total = total + sum_rightmost(ladj, 3 - level.domain.event_dim)
            if i:
                own = others[i - 1].expand(*image.shape[:-3], *others[i - 1].shape[-3:])
                image = torch.cat([image, own], -3)
        return image, total

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps an image to a flat vector, from the first level to the last."""
        check_tensor("MultiLevel", "y", y)
        self._inverse_shape(y.shape)
        check_context(self, context)
        image, latents, total = y, [], cast("Any", 0)
        for level, (own, _, _) in zip(self.levels, self.latent_shapes, strict=True):
            image, ladj = level.inverse_and_ladj(image, context if level.context_dim else None)
            total = total + sum_rightmost(ladj, 3 - level.codomain.event_dim)
            image, latent = image.split([image.shape[-3] - own, own], -3)
            latents.append(latent)
        return self.flat(latents), total

    def initialize(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Initialises the levels from the data, from the first to the last."""
        image, latents = y, []
        for level, (own, _, _) in zip(self.levels, self.latent_shapes, strict=True):
            image = level.initialize(image, context if level.context_dim else None)
            image, latent = image.split([image.shape[-3] - own, own], -3)
            latents.append(latent)
        return self.flat(latents)

    def latents(self, x: Tensor) -> list[Tensor]:
        """Reads the latent image of each level from a flat vector.

        Args:
            x: Shape ``(*batch, D)``: a base draw, or what :meth:`inverse_and_ladj` made of data.

        Returns:
            One view for each level, from the one nearest the data on, of shape
            ``(*batch, *latent_shapes[i])``.

        Raises:
            ValueError: If the last dimension is not D.
        """
        check_event(self, x.shape, "x")
        sizes = [math.prod(shape) for shape in self.latent_shapes]
        parts = zip(x.split(sizes, -1), self.latent_shapes, strict=True)
        return [part.unflatten(-1, shape) for part, shape in parts]

    def flat(self, latents: Sequence[Tensor]) -> Tensor:
        """Makes a flat vector of the levels' latent images: undoes :meth:`latents`.

        Args:
            latents: One for each level, shape ``(*batch, *latent_shapes[i])``; batches broadcast.

        Returns:
            Shape ``(*batch, D)``, which :meth:`forward_and_ladj` takes.

        Raises:
            ValueError: If their number or a shape is another.
        """
        got = [tuple(latent.shape[-3:]) for latent in latents]
        if got != self.latent_shapes:
            raise ValueError(
                f"MultiLevel got latents of shapes {got}. Pass one for each level, of shapes "
                f"{self.latent_shapes} behind any batch."
            )
        batch = torch.broadcast_shapes(*(latent.shape[:-3] for latent in latents))
        rows = [latent.flatten(-3) for latent in latents]
        return torch.cat([row.expand(*batch, row.shape[-1]) for row in rows], -1)

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        """Where the first level's data lie."""
        own = self.levels[0].codomain
        return constraints.independent(own, 3 - own.event_dim) if own.event_dim < 3 else own

    @property
    def ladj_direction(self) -> Literal["forward", "inverse"]:  # type: ignore[override]
        """The direction in which no level is slow, where there is one."""
        slow_forward = any(level.ladj_direction == "inverse" for level in self.levels)
        return "inverse" if slow_forward else "forward"

    def _forward_shape(self, shape: torch.Size) -> torch.Size:
        return check_event(self, shape, "x")[:-1] + torch.Size(self.image_shape)

    def _inverse_shape(self, shape: torch.Size) -> torch.Size:
        if tuple(shape[-3:]) != self.image_shape:
            raise ValueError(
                f"MultiLevel(image_shape={self.image_shape}) got y of shape {tuple(shape)}; "
                f"expected shape (*batch, {', '.join(map(str, self.image_shape))})."
            )
        return shape[:-3] + torch.Size([self.input_dim])

    def extra_repr(self) -> str:
        """The sizes, for ``repr``."""
        context = f", context_dim={self.context_dim}" if self.context_dim else ""
        return f"image_shape={self.image_shape}, latent_shapes={self.latent_shapes}{context}"


def _listed(levels: Any) -> list[list[Any]]:
    """The layers of each level."""
    if isinstance(levels, Transform) or not isinstance(levels, Iterable):
        raise TypeError(
            f"MultiLevel got levels of type {type(levels).__name__}. Pass a list of levels, each "
            "a list of layers: [[layer, ..., Unsqueeze()], ...]."
        )
    given = [[level] if isinstance(level, Transform) else list(level) for level in levels]
    if not given:
        raise ValueError("MultiLevel got no levels. Pass at least one list of layers.")
    return given


def _parted(index: int, shape: torch.Size, last: bool) -> torch.Size:  # noqa: FBT001
    """Returns the shape of a level's image if it can be parted, or need not be."""
    got = f"MultiLevel got a level {index} with base side of shape {tuple(shape)}"
    if len(shape) != 3:
        raise ValueError(
            f"{got}, which is no image. Take layers that end in one: flat vectors are made of all "
            "levels' latents by MultiLevel itself."
        )
    if shape[0] < 2 and not last:
        raise ValueError(
            f"{got}, which cannot be parted into two halves of channels. Make this level the "
            "last, or end its layers with Unsqueeze()."
        )
    return shape
