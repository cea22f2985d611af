"""A stack of convolutions with its gradient in closed form, for a node of the graph around it.

Recorded operation by operation, a small network's time goes to autograd's bookkeeping; and here
activations and their gradients work in place on what the convolutions have just written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_nf.nn._conditions import ConditionedConv, PixelLinear
from pyro_nf.nn._dense import InPlace, in_place_activations, is_followed, is_hooked
from pyro_nf.nn._image_network import ImageNetwork
from pyro_nf.nn.conv_net import ConvNet

aten: Any = torch.ops.aten


class ConvStack(NamedTuple):
    """All of a stack that is no tensor.

    Its tensors are each layer's kernels ``(O, I, k, k)``, then each layer's bias ``(O,)``; its
    images have a pixel's channels side by side, ``(N, H, W, C)``.

    Attributes:
        activations: One for each layer but the last.
    """

    activations: tuple[InPlace, ...]

    def run(self, pixels: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Evaluates the layers; differentiable where gradients are recorded.

        Returns:
            The output ``(N, H, W, O)``, and the hidden layers.
        """
        layers, hidden = len(self.activations) + 1, list[Tensor]()
        for i, activation in enumerate(self.activations):
            pixels = activation.apply(_convolved(pixels, tensors[i], tensors[layers + i]))
            hidden.append(pixels)
        return _convolved(pixels, tensors[layers - 1], tensors[-1]), hidden

    def pull_back(
        self, pixels: Tensor, tensors: Sequence[Tensor], hidden: Sequence[Tensor], grad: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The gradients of the images and of the tensors.

        Args:
            pixels: As :meth:`run` took them.
            tensors: As there.
            hidden: What it returned beside the output.
            grad: Gradient of the output.
        """
        layers, sources = len(self.activations) + 1, [pixels, *hidden]
        grads = [grad] * (2 * layers)
        for i in reversed(range(layers)):
            grad, grads[i], grads[layers + i] = _pulled_back(sources[i], tensors[i], grad)
            if i:
                grad = self.activations[i - 1].multiply_by_slope(grad, hidden[i - 1])
        return grad, grads


def conv_stack(network: nn.Module, images: Tensor) -> tuple[ConvStack, list[Tensor]] | None:
    """Reads a network's layers.

    Args:
        network: Any network of images.
        images: What it will read.

    Returns:
        The stack and its tensors; None where the network has to be called: it is no plain
        ``ConvNet``, an activation has no form in place, or a hook, autocast or a tracer follows
        each operation.
    """
    kind = type(network)
    if not isinstance(network, ConvNet) or is_hooked(network) or network.context_dim:
        return None
    if kind.forward is not ImageNetwork.forward or kind._evaluate is not ConvNet._evaluate:
        return None
    layers = [*network.hidden, network.output]
    if is_followed(images) or not all(map(_is_plain, layers)):
        return None
    activations = in_place_activations(network.activations)
    if activations is None:
        return None
    convolutions = [layer.conv for layer in layers]
    tensors = [conv.weight for conv in convolutions] + [conv.bias for conv in convolutions]
    return ConvStack(activations), tensors


def _is_plain(layer: nn.Module) -> bool:
    if type(layer) is not ConditionedConv or is_hooked(layer):
        return False
    return type(layer.conv) in (nn.Conv2d, PixelLinear) and not is_hooked(layer.conv)


def _convolved(pixels: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    size = kernel.shape[-1]
    if size == 1:
        return nn.functional.linear(pixels, kernel.flatten(1), bias)
    images = pixels.permute(0, 3, 1, 2)
    return nn.functional.conv2d(images, kernel, bias, padding=size // 2).permute(0, 2, 3, 1)


def _pulled_back(pixels: Tensor, kernel: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the images, the kernels and the bias."""
    outputs, inputs, size, _ = kernel.shape
    if size == 1:
        n, matrix = math.prod(pixels.shape[:-1]), kernel.flatten(1)
        rows = grad.reshape(n, outputs)
        kernel_grad = rows.t() @ pixels.reshape(n, inputs)
        return (rows @ matrix).view(pixels.shape), kernel_grad.view(kernel.shape), rows.sum(0)
    one, edge = [1, 1], [size // 2] * 2
    images_grad, kernel_grad, bias_grad = aten.convolution_backward(
        grad.permute(0, 3, 1, 2),
        pixels.permute(0, 3, 1, 2),
        kernel,
        [outputs],
        one,
        edge,
        one,
        False,  # noqa: FBT003 - torch's own signature: no transposed convolution
        [0, 0],
        1,
        [True] * 3,
    )
    return images_grad.permute(0, 2, 3, 1), kernel_grad, bias_grad
