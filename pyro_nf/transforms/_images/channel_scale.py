"""A shift and a scale of each channel."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pyro_nf.bijections._closed_form import Direction


class ChannelScale(NamedTuple):
    r"""The map :math:`y = (x + m) e^s + b` of pixels, one node of the graph.

    Attributes:
        direction: Base -> data, or back.
    """

    direction: Direction

    def evaluate(
        self, pixels: Tensor, shift: Tensor, log_scale: Tensor, center: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Maps pixels.

        Args:
            pixels: Shape ``(N, H, W, C)``.
            shift: m, ``(C,)``.
            log_scale: s, ``(C,)``.
            center: b, ``(C,)``, without a gradient.

        Returns:
            The pixels, and the log-determinants of the images, ``(N,)``.
        """
        _, height, width, _ = pixels.shape
        ladj = log_scale.sum() * (height * width)
        if self.direction == "forward":
            return (pixels + shift) * log_scale.exp() + center, ladj.expand(len(pixels))
        return (pixels - center) * (-log_scale).exp() - shift, -ladj.expand(len(pixels))

    def solve(
        self, pixels: Tensor, shift: Tensor, log_scale: Tensor, center: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]:
        """The same without a graph; the result is kept."""
        result, ladj = self.evaluate(pixels, shift, log_scale, center)
        return (result, ladj), (result,)

    def pull_back(
        self, inputs: tuple[Tensor, ...], saved: tuple[Tensor, ...], grads: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        """The gradients of the pixels, the shift and the log-scale."""
        (pixels, shift, log_scale, center), (result,), (grad, ladj_grad) = inputs, saved, grads
        _, height, width, _ = pixels.shape
        volume_grad = ladj_grad.sum() * (height * width)
        if self.direction == "forward":
            pixels_grad = grad * log_scale.exp()
            stretched = _over_pixels(grad * (result - center))  # ∂y/∂s = y - b
            return pixels_grad, _over_pixels(pixels_grad), stretched + volume_grad, None
        pixels_grad = grad * (-log_scale).exp()
        shrunk = _over_pixels(grad * (result + shift))  # ∂x/∂s = -(x + m)
        return pixels_grad, -_over_pixels(grad), -(shrunk + volume_grad), None


def _over_pixels(grad: Tensor) -> Tensor:
    return grad.sum((0, 1, 2))
