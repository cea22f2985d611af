"""A stack of convolutions with its gradient in closed form, for a node of the graph around it.

Recorded operation by operation, a small network's time goes to autograd's bookkeeping; and here
activations and their gradients work in place on what the convolutions have just written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from torch import Tensor, nn

from pyro_nf.nn._conditions import ConditionedConv, PixelLinear
from pyro_nf.nn._dense import InPlace, in_place_activations, is_followed, is_hooked
from pyro_nf.nn._image_network import ImageNetwork
from pyro_nf.nn._same_conv import convolved, pulled_back
from pyro_nf.nn.conv_net import ConvNet


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
            pixels = activation.apply(convolved(pixels, tensors[i], tensors[layers + i]))
            hidden.append(pixels)
        return convolved(pixels, tensors[layers - 1], tensors[-1]), hidden

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
            grad, grads[i], grads[layers + i] = pulled_back(sources[i], tensors[i], grad)
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
    if not isinstance(network, ConvNet) or is_hooked(network) or network.context_dim:
        return None
    kind = type(network)
    if kind.forward is not ImageNetwork.forward or kind._evaluate is not ConvNet._evaluate:
        return None
    if is_followed(images):
        return None
    activations = in_place_activations(network.activations)
    convolutions = [_convolution(layer) for layer in (*network.hidden, network.output)]
    if activations is None or None in convolutions:
        return None
    parameters = [cast("nn.Conv2d", conv)._parameters for conv in convolutions]
    tensors = [each[name] for name in ("weight", "bias") for each in parameters]
    return ConvStack(activations), cast("list[Tensor]", tensors)


def _convolution(layer: nn.Module) -> nn.Conv2d | None:
    """The layer's convolution if it does nothing else, and does it as our own does."""
    if type(layer) is not ConditionedConv or is_hooked(layer):
        return None
    conv = layer.conv
    if type(conv) not in (nn.Conv2d, PixelLinear) or is_hooked(conv):
        return None
    (size, other), one = conv.kernel_size, (1, 1)
    forms = conv.padding, conv.stride, conv.dilation, conv.groups, conv.padding_mode, other
    usual = forms == ((size // 2, size // 2), one, one, 1, "zeros", size)
    return conv if usual and size % 2 and conv._parameters["bias"] is not None else None
