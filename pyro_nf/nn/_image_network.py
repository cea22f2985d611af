"""What the networks of images have in common: checks, rows of images, the last layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from pyro_nf._checks import positive_int
from pyro_nf.nn._conditions import Conditions, ContextSize, read_context


class ImageNetwork(nn.Module):
    """A network from images to images of the same height and width (abstract).

    Args:
        input_channels: Channels of x.
        output_channels: Channels of the result.
        context: The size of the context.
    """

    def __init__(self, input_channels: int, output_channels: int, context: ContextSize) -> None:
        super().__init__()
        owner = type(self).__name__
        self.input_channels = positive_int(owner, "input_channels", input_channels)
        self.output_channels = positive_int(owner, "output_channels", output_channels)
        self.context_dim, self.context_shape = context

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Evaluates the network.

        Args:
            x: Shape ``(*batch, input_channels, H, W)``.
            context: Shape ``(*context_batch, context_dim)``; its batch broadcasts against that of
                x, aligned right, and is not larger.

        Returns:
            Tensor of shape ``(*batch, output_channels, H, W)``, a pixel's channels side by side.

        Raises:
            ValueError: If a shape does not fit.
        """
        owner = type(self).__name__
        if x.ndim < 3 or x.shape[-3] != self.input_channels:
            raise ValueError(
                f"{owner}(input_channels={self.input_channels}) got x of shape {tuple(x.shape)}. "
                f"Pass shape (*batch, {self.input_channels}, height, width)."
            )
        size = ContextSize(self.context_dim, self.context_shape)
        batch = x.shape[:-3]
        conditions = read_context(owner, size, context, batch, (x.shape[-2], x.shape[-1]))
        rows = x if len(batch) == 1 else x.reshape(math.prod(batch), *x.shape[-3:])
        y = self._evaluate(channels_last(rows), conditions)
        return y if len(batch) == 1 else y.reshape(*batch, *y.shape[1:])

    def _evaluate(self, x: Tensor, conditions: Conditions | None) -> Tensor:
        """Maps rows ``(N, input_channels, H, W)`` to ``(N, output_channels, H, W)``."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Shows the channels and the context."""
        context = f", context_dim={self.context_dim}" if self.context_dim else ""
        shape = f", context_shape={self.context_shape}" if self.context_shape else ""
        return f"{self.input_channels}, {self.output_channels}{context}{shape}"


def channels_last(x: Tensor) -> Tensor:
    """The rows ``(N, C, H, W)`` with the channels of a pixel side by side in memory.

    On a CPU such convolutions take two thirds of the time. By permutations, which unlike torch's
    memory formats every tracer follows.
    """
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def odd_size(owner: str, name: str, value: int) -> int:
    """Returns a kernel's side length if it is positive and odd, else raises."""
    positive_int(owner, name, value)
    if value % 2 == 0:
        raise ValueError(
            f"{owner} got {name}={value}. Pass an odd number: an even kernel has no middle pixel."
        )
    return value


def odd_sizes(owner: str, value: Sequence[int] | None, layers: int) -> tuple[int, ...]:
    """Returns a side length for each of ``layers`` convolutions: 3 at the ends, 1 within."""
    if value is None:
        return (3, *(1,) * (layers - 2), 3)[:layers]
    if isinstance(value, (str, int)) or not isinstance(value, Sequence):
        raise TypeError(f"{owner} got kernel_sizes={value!r}. Pass a sequence such as (3, 1, 3).")
    if len(value) != layers:
        raise ValueError(
            f"{owner} has {layers} convolutions and got kernel_sizes={tuple(value)}. Pass "
            f"{layers} odd numbers: one for each hidden layer and one for the output."
        )
    return tuple(odd_size(owner, f"kernel_sizes[{i}]", size) for i, size in enumerate(value))
