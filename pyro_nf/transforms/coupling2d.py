"""The coupling of images: checkerboard and channel masks, convolutional networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast, final, get_args

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_nf._checks import choice
from pyro_nf.bijections import ScalarBijection
from pyro_nf.bijections._closed_form import Direction
from pyro_nf.nn import ConvNet
from pyro_nf.transforms._images.convolving import convolving_move
from pyro_nf.transforms._images.image_transform import ImageTransform, as_pass
from pyro_nf.transforms._images.moving import Move
from pyro_nf.transforms._images.partition import (
    ChannelHalves,
    Checkerboard,
    Parity,
    Partition2d,
)
from pyro_nf.transforms._wiring import checked_bijection

Mask2d = Literal["channels", "checkerboard"]
MakeNetwork = Callable[[int, int], nn.Module]


@final
class Coupling2d(ImageTransform):
    r"""A coupling of images: one half is kept, the other moved by what a network says of it.

    .. math:: y_{kept} = x_{kept}, \qquad y_{moved} = f(x_{moved}; \theta(x_{kept}, c))

    with an elementwise bijection f and a convolutional network θ. The halves are channels, or the
    two colours of a checkerboard of pixels. The Jacobian is triangular, so its log-determinant is
    a sum over the moved numbers. A fresh layer is the bijection at zero parameters.

    Cost: one pass of the network and one evaluation of the bijection, in either direction. Events
    are images (C, H, W) of any height and width.

    Args:
        bijection: The scalar bijection f.
        channels: Number C of channels; at least 2 for ``mask="channels"``.
        mask: "channels" keeps the first ⌊C/2⌋ channels, "checkerboard" every second pixel.
        parity: Give it alternating values along a chain. 1 keeps the last ⌊C/2⌋ channels, or the
            pixels that 0 moves: of an even number of channels it exchanges kept and moved, of an
            odd one the middle channel is moved by both.
        network: Makes the network from the numbers of its input and output channels, such as
            ``functools.partial(pyro_nf.nn.ConvNet, hidden_channels=(32, 32), context_dim=3)``. It
            maps ``(*batch, input, H, W)``, with a context ``(*context_batch, context_dim)`` beside
            it if it has an attribute ``context_dim`` above 0, to ``(*batch, output, H, W)``.

    Raises:
        TypeError: If the bijection is no instance of one of the real line, or the network no
            function that makes a module.
        ValueError: If a size is out of range or an option unknown; in use, if the network's
            output has another shape.

    References:
        - Density estimation using Real NVP (Dinh et al., 2017), arXiv:1605.08803, section 3.4.
        - Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
          arXiv:1807.03039, section 3.3.

    Examples:
        >>> import torch
        >>> from pyro_nf.bijections import Affine
        >>> from pyro_nf.transforms import Coupling2d
        >>> layer = Coupling2d(Affine(), 4)
        >>> y, ladj = layer.forward_and_ladj(torch.zeros(7, 4, 8, 6))
        >>> y.shape, ladj.shape
        (torch.Size([7, 4, 8, 6]), torch.Size([7]))
    """

    def __init__(
        self,
        bijection: ScalarBijection,
        channels: int,
        *,
        mask: Mask2d = "channels",
        parity: Parity = 0,
        network: MakeNetwork = ConvNet,
    ) -> None:
        super().__init__(channels)
        owner = "Coupling2d"
        self.bijection = checked_bijection(owner, bijection)
        if bijection.domain is not constraints.real:
            raise TypeError(
                f"{owner} got {bijection!r}, a bijection of {bijection.domain!r}. Pass one of the "
                "real line, such as pyro_nf.bijections.RationalQuadraticSpline()."
            )
        self.mask: Mask2d = choice(owner, "mask", mask, get_args(Mask2d))
        if parity not in (0, 1):
            raise ValueError(f"{owner} got parity={parity}. Pass 0 or 1.")
        self.parity: Parity = parity
        if mask == "channels" and channels < 2:
            raise ValueError(
                f"{owner}(channels={channels}) got mask='channels', which needs two halves. Pass "
                "mask='checkerboard', or squeeze the image first: Squeeze()."
            )
        remedy = (
            "Pass a function of input and output channels that returns a module, such as the "
            "class pyro_nf.nn.ConvNet."
        )
        if isinstance(network, nn.Module) or not callable(network):
            raise TypeError(f"{owner} got a network of type {type(network).__name__}. {remedy}")
        parts = self._partition
        self.network = network(parts.read_channels, bijection.param_count * parts.moved_channels)
        if not isinstance(self.network, nn.Module):
            raise TypeError(
                f"{owner} got a network that makes {type(self.network).__name__}. {remedy}"
            )
        self.context_dim = cast("int", getattr(self.network, "context_dim", 0))

    @property
    def _partition(self) -> Partition2d:
        kind = ChannelHalves if self.mask == "channels" else Checkerboard
        return kind(self.channels, self.parity)

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Moves one half by the bijection."""
        return self._map(*self._rows(x, context, "x"), context, "forward")

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Moves one half by the bijection's inverse."""
        return self._map(*self._rows(y, context, "y"), context, "inverse")

    def _map(
        self, rows: Tensor, batch: torch.Size, context: Tensor | None, direction: Direction
    ) -> tuple[Tensor, Tensor]:
        pixels, move = rows.movedim(1, -1), Move(self.bijection, self._partition, direction)
        mapped = convolving_move(self.network, move, pixels)
        if mapped is not None:
            return as_pass(mapped[0].movedim(-1, 1), mapped[1], batch)
        read = move.partition.read(pixels).movedim(-1, 1)
        if context is None:
            made = self._made(read)
        else:  # its rows belong to the batch
            made = self._made(read.reshape(*batch, *read.shape[1:]), context)
            made = made.reshape(len(rows), *made.shape[-3:])
        moved, ladj = move(pixels, made.movedim(1, -1))
        return as_pass(moved.movedim(-1, 1), ladj, batch)

    def _made(self, read: Tensor, *context: Tensor) -> Tensor:
        """Calls the network, and raises if its output is not of the right shape."""
        made = self.network(read, *context)
        outputs = self.bijection.param_count * self._partition.moved_channels
        expected = torch.Size([*read.shape[:-3], outputs, *read.shape[-2:]])
        if not isinstance(made, Tensor) or made.shape != expected:
            got = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
            raise ValueError(
                f"Coupling2d got {got} from its {type(self.network).__name__}, of images of "
                f"shape {tuple(read.shape)}; expected shape {tuple(expected)}. Make a network of "
                "the output channels it is given, which keeps height and width."
            )
        return made

    def extra_repr(self) -> str:
        """The bijection, the mask and the sizes."""
        which = f"mask={self.mask!r}, parity={self.parity}"
        return f"{self.bijection}, {super().extra_repr()}, {which}"
