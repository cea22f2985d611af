"""A coupling of images with a plain convolutional network, as one node of the graph."""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import Tensor, nn

from pyro_nf import _own_gradient
from pyro_nf.bijections._closed_form import is_closed_form
from pyro_nf.nn._conv_stack import ConvStack, conv_stack
from pyro_nf.transforms._images.moving import Move


class ConvolvingMove(NamedTuple):
    """A move whose parameters a stack of convolutions makes.

    Attributes:
        move: The move.
        stack: The network.
    """

    move: Move
    stack: ConvStack

    def evaluate(self, pixels: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Moves a part of images ``(N, H, W, C)``, given the network's tensors."""
        made, _ = self.stack.run(self.move.partition.read(pixels), tensors)
        return self.move.evaluate(pixels, made)

    def solve(
        self, pixels: Tensor, *tensors: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]:
        """The same without a graph; kept is what the network read, made and the move keeps."""
        read = self.move.partition.read(pixels).contiguous()
        made, hidden = self.stack.run(read, tensors)
        outputs, saved = self.move.solve(pixels, made)
        return outputs, (read, *hidden, *saved)

    def pull_back(
        self, inputs: tuple[Tensor, ...], saved: tuple[Tensor, ...], grads: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """The gradients of the images and of the network's tensors."""
        (pixels, *tensors), (read, *rest) = inputs, saved
        count = len(self.stack.activations)
        joined, made_grad = self.move.pull_back((pixels, read), tuple(rest[count:]), grads)
        read_grad, tensor_grads = self.stack.pull_back(read, tensors, rest[:count], made_grad)
        return self.move.partition.add_read(joined, read_grad), *tensor_grads


def convolving_move(
    network: nn.Module, move: Move, pixels: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Moves a part of images ``(N, H, W, C)`` in one node.

    Returns:
        The images and the log-determinants ``(N,)``; None where the network has to be called.
    """
    if not is_closed_form(move.bijection, pixels.dtype):
        return None
    found = conv_stack(network, pixels)
    if found is None:
        return None
    stack, tensors = found
    made = move.bijection.param_count * move.partition.moved_channels
    sizes = tensors[0].shape[1], tensors[len(stack.activations)].shape[0]
    if sizes != (move.partition.read_channels, made) or tensors[0].dtype != pixels.dtype:
        return None
    mapped = _own_gradient.apply(ConvolvingMove(move, stack), pixels, *tensors)
    return cast("tuple[Tensor, Tensor]", mapped)
