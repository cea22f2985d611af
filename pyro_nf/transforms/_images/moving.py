"""The part of a coupling of images behind its network."""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import Tensor

from pyro_nf import _own_gradient
from pyro_nf.bijections import ScalarBijection
from pyro_nf.bijections._closed_form import ClosedForm, Direction, is_closed_form
from pyro_nf.transforms._images.partition import Partition2d


class Move(NamedTuple):
    """Moves one part of images, and sums the log-derivatives.

    Thirty operations on few numbers: with a closed-form bijection they are one node of the graph.

    Attributes:
        bijection: What it moves them by.
        partition: Which part.
        direction: Which way.
    """

    bijection: ScalarBijection
    partition: Partition2d
    direction: Direction

    def __call__(self, pixels: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
        """Moves a part of images.

        Args:
            pixels: Shape ``(N, H, W, C)``.
            made: What the network made, ``(N, H, W, param_count · moved_channels)``.

        Returns:
            The images ``(N, H, W, C)`` and the log-determinants ``(N,)``.
        """
        if is_closed_form(self.bijection, pixels.dtype) and made.dtype == pixels.dtype:
            return cast("tuple[Tensor, Tensor]", _own_gradient.apply(self, pixels, made))
        return self.evaluate(pixels, made)

    def evaluate(self, pixels: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
        """The same, operation by operation."""
        run = self.bijection.forward if self.direction == "forward" else self.bijection.inverse
        moved, ladj = run(self.partition.moved(pixels), self._parameters(made))
        return self.partition.join(pixels, moved), ladj.flatten(1).sum(1)

    def solve(
        self, pixels: Tensor, made: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]:
        """The same without a graph, and what the bijection keeps of it."""
        bijection = cast("ClosedForm", self.bijection)
        value = self.partition.moved(pixels)
        n = value.numel()
        params = self._parameters(made).reshape(bijection.param_count, n)
        result, ladj, saved = bijection.solve(value.reshape(n), params, self.direction)
        moved = result.view(value.shape)
        return (
            self.partition.join(pixels, moved),
            ladj.view(value.shape).flatten(1).sum(1),
        ), saved

    def pull_back(
        self, inputs: tuple[Tensor, ...], saved: tuple[Tensor, ...], grads: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """The gradients of the images and of what the network made."""
        (pixels, _), (grad, ladj_grad) = inputs, grads
        bijection, moved_grad = cast("ClosedForm", self.bijection), self.partition.moved(grad)
        shape, n = moved_grad.shape, moved_grad.numel()
        row_grad = ladj_grad.reshape(len(ladj_grad), *(1,) * (len(shape) - 1)).expand(shape)
        value_grad, params_grad = bijection.pull_back(
            saved, moved_grad.reshape(n), row_grad.reshape(n), self.direction
        )
        picked = params_grad.view(bijection.param_count, *shape).movedim(0, -2).flatten(-2)
        joined = self.partition.join(grad, value_grad.view(shape))
        return joined, self.partition.put(picked, pixels)

    def _parameters(self, made: Tensor) -> Tensor:
        """The parameters of the moved values, ``(param_count, N, *places, moved_channels)``."""
        shape = self.bijection.param_count, self.partition.moved_channels
        return self.partition.pick(made).unflatten(-1, shape).movedim(-2, 0)
