"""Convolutional vector fields, for continuous flows of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, get_args

import torch
from torch import Tensor, nn

from pyro_nf._checks import choice, hidden_sizes, non_negative_int, positive_int
from pyro_nf.nn._linear import check_context
from pyro_nf.nn._smooth import SMOOTH, Smooth
from pyro_nf.nn._time_linear import TimeConditioning


class FieldConv(nn.Module):
    r"""A convolutional network f(t, z, c) on images, the vector field of a continuous flow.

    Its layers depend on the time t and, but for the last, on the context c. For "concatsquash"

    .. math:: h_i = a\big((W_i * h_{i-1} + b_i) \odot s_i + t w_i + V_i c\big), \qquad
        s_i = \sigma(g_i + t u_i + G_i c)

    where * is a convolution that keeps the image's size, zeros beyond its border, and the shift
    and the scale s are one number for each channel; the last layer is the same without activation
    and context. "concat" leaves the scales out, "none" the time as well (an autonomous field).
    Without hidden layers the context enters the last. A fresh field is 0 everywhere, so that its
    flow is the identity.

    The weights know nothing of height and width: one field serves images of any size. It reads a
    batch of images, and costs a convolution a layer. It has no closed divergence: a flow takes it
    from autograd, exactly with as many products as the image has numbers, or estimates it with
    one (Hutchinson).

    Args:
        channels: Number of channels of the images.
        hidden_channels: Channels of the hidden layers; ``()`` for a field that is affine in z.
        kernel_size: Odd side length of the convolutions, in pixels.
        context_dim: Size of the context c; 0 for none.
        time: "concatsquash", "concat" or "none".
        activation: "tanh", "softplus", "silu" or "sin": smooth, because solvers and the gradient
            of the divergence need derivatives.

    Raises:
        TypeError: If a size is no integer.
        ValueError: If a size is out of range, the kernel's even, or an option unknown.

    References:
        FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models (Grathwohl
        et al., 2018), arXiv:1810.01367, and the layers of its reference code.

    Examples:
        >>> import torch
        >>> from pyro_nf.nn import FieldConv
        >>> field, t = FieldConv(3, (16, 16), context_dim=2), torch.tensor(0.5)
        >>> field(t, torch.zeros(5, 3, 8, 6), torch.zeros(5, 2)).shape
        torch.Size([5, 3, 8, 6])
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: Sequence[int] = (32, 32),
        *,
        kernel_size: int = 3,
        context_dim: int = 0,
        time: TimeConditioning = "concatsquash",
        activation: Smooth = "tanh",
    ) -> None:
        super().__init__()
        owner = "FieldConv"
        self.channels = positive_int(owner, "channels", channels)
        self.hidden_channels = hidden_sizes(owner, "hidden_channels", hidden_channels)
        self.kernel_size = positive_int(owner, "kernel_size", kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(
                f"{owner} got kernel_size={kernel_size}. Pass an odd number: an even kernel has "
                f"no middle pixel."
            )
        self.context_dim = non_negative_int(owner, "context_dim", context_dim)
        self.time: TimeConditioning = choice(owner, "time", time, get_args(TimeConditioning))
        self.activation: Smooth = choice(owner, "activation", activation, tuple(SMOOTH))
        widths = (self.channels, *self.hidden_channels)
        self.hidden = nn.ModuleList(
            TimeConv(inputs, outputs, kernel_size, time=time, context_dim=self.context_dim)
            for inputs, outputs in zip(widths, widths[1:], strict=False)
        )
        self.output = TimeConv(
            widths[-1],
            self.channels,
            kernel_size,
            time=time,
            context_dim=0 if self.hidden_channels else self.context_dim,
            zero_init=True,
        )

    def forward(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Evaluates the field.

        Args:
            t: The time, without dimensions, or one for each image, shape ``(batch, 1, 1, 1)``.
            z: Images ``(batch, channels, height, width)``.
            context: Shape ``(batch, context_dim)``.

        Returns:
            The velocity dz/dt, of the shape of z.

        Raises:
            ValueError: If a shape does not fit.
        """
        self._check(z, context)
        h = z
        for layer in cast("Sequence[TimeConv]", self.hidden):
            h = SMOOTH[self.activation](layer(t, h, context))[0]
        return self.output(t, h, context)

    def _check(self, z: Tensor, context: Tensor | None) -> None:
        owner = "FieldConv"
        if z.ndim != 4 or z.shape[1] != self.channels:
            raise ValueError(
                f"{owner}(channels={self.channels}) got z of shape {tuple(z.shape)}. "
                f"Pass shape (batch, {self.channels}, height, width)."
            )
        check_context(owner, context, self.context_dim)
        if context is not None and context.shape[:-1] != z.shape[:1]:
            raise ValueError(
                f"{owner} got {len(z)} images and a context of shape {tuple(context.shape)}. "
                f"Pass shape ({len(z)}, {self.context_dim})."
            )


class TimeConv(nn.Module):
    """A convolution whose channels are shifted and scaled by functions of time and context.

    Args:
        input_channels: Channels of h.
        output_channels: Channels of the result.
        kernel_size: Odd side length, in pixels; the image keeps its size.
        time: How the time enters, as in :class:`FieldConv`.
        context_dim: Size of the context; 0 for none.
        zero_init: Whether the result starts at 0, whatever the time.
    """

    def __init__(
        self,
        input_channels: int,
        output_channels: int,
        kernel_size: int,
        *,
        time: TimeConditioning,
        context_dim: int = 0,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.time, self.context_dim = time, context_dim
        features = (time != "none") + context_dim
        self.conv = nn.Conv2d(
            input_channels, output_channels, kernel_size, padding=kernel_size // 2
        )
        self.shift = nn.Linear(features, output_channels, bias=False) if features else None
        self.gate = nn.Linear(features, output_channels) if time == "concatsquash" else None
        for part in (self.gate, *((self.conv, self.shift) if zero_init else ())):
            for parameter in () if part is None else part.parameters():
                nn.init.zeros_(parameter)

    def forward(self, t: Tensor, h: Tensor, context: Tensor | None) -> Tensor:
        """Maps h ``(batch, input_channels, height, width)``, the context ``(batch, size)``."""
        result = self.conv(h)
        features = self._features(t.to(h), context)
        if self.gate is not None:
            result = result * torch.sigmoid(self.gate(features))[..., None, None]
        if self.shift is not None:
            result = result + self.shift(features)[..., None, None]
        return result

    def _features(self, t: Tensor, context: Tensor | None) -> Tensor | None:
        """Time and context, ``(batch, features)``; ``(1, 1)`` of one time alone."""
        time = None if self.time == "none" else t.reshape(-1, 1)
        if context is None or not self.context_dim:
            return time
        return context if time is None else torch.cat([time.expand(len(context), 1), context], 1)
