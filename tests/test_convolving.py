"""A coupling of images with a plain convolutional network is one node, and the same map."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyro_nf.bijections import Affine, RationalQuadraticSpline
from pyro_nf.nn import ConvNet
from pyro_nf.nn._same_conv import convolved, pulled_back
from pyro_nf.transforms import Compose, Coupling2d
from pyro_nf.transforms._images import convolving

torch.set_num_threads(1)


def perturbed(mask="channels", parity=0, bijection=None, channels=3, **options):
    torch.manual_seed(0)
    options = {"hidden_channels": (5, 4), "activation": "tanh"} | options
    network = partial(ConvNet, **options)
    bijection = Affine() if bijection is None else bijection
    layer = Coupling2d(bijection, channels, mask=mask, parity=parity, network=network).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer


def images(rows=3, height=4, width=4, channels=3):
    torch.manual_seed(1)
    return torch.randn(rows, channels, height, width).double().requires_grad_()


def taken_apart(layer, y):
    """The same layer with a hook, which each operation must reach."""
    handle = layer.network.register_forward_hook(lambda *_: None)
    outputs = layer.inverse_and_ladj(y)
    handle.remove()
    return outputs


def loss(outputs):
    return sum(
        (part * torch.linspace(-1, 2, part.numel()).view_as(part)).sum() for part in outputs
    )


def nodes(tensor):
    """The names of a graph's nodes."""
    found, open_nodes = set(), [tensor.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is not None:
            found.add(type(node).__name__)
            open_nodes += [following for following, _ in node.next_functions]
    return found


LAYERS = {
    "channels": {},
    "exchanged": {"parity": 1},
    "checkerboard": {"mask": "checkerboard"},
    "checkerboard-1": {"mask": "checkerboard", "parity": 1},
    "spline": {"bijection": RationalQuadraticSpline(bins=3)},
    "relu": {"activation": "relu", "kernel_sizes": (3, 3, 1)},
    "linear": {"hidden_channels": (), "kernel_sizes": (5,)},
}
EACH = pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)


@EACH
@pytest.mark.parametrize("sizes", [(3, 4, 4), (20, 2, 2), (20, 1, 3), (0, 4, 4)])
def test_one_node_is_the_recorded_map(options, sizes):
    layer, y = perturbed(**options), images(*sizes)
    inputs = [y, *layer.parameters()]
    short, long = layer.inverse_and_ladj(y), taken_apart(layer, y)
    torch.testing.assert_close(short, long)
    assert "ConvolutionBackward0" not in nodes(short[0])
    mine, theirs = (torch.autograd.grad(loss(outputs), inputs) for outputs in (short, long))
    torch.testing.assert_close(mine, theirs)


@EACH
def test_second_and_mapped_gradients(options):
    layer, y = perturbed(**options), images(20, 2, 2)
    found = []
    for outputs in (layer.inverse_and_ladj(y), taken_apart(layer, y)):
        (grad,) = torch.autograd.grad(loss(outputs), y, create_graph=True)
        second = torch.autograd.grad(grad.square().sum(), [y, *layer.parameters()])
        rows = torch.eye(20).double()
        mapped = torch.autograd.grad(layer.inverse_and_ladj(y)[1], y, rows, is_grads_batched=True)
        found.append((grad, second, mapped))
    torch.testing.assert_close(*found)


def test_gradients_reach_recomputed_layers():
    layers = [perturbed(parity=i % 2) for i in range(4)]
    y, found = images(), []
    for segments in (0, 4):
        chain = Compose(layers, recompute_segments=segments)
        outputs = chain.inverse_and_ladj(y)
        found.append(torch.autograd.grad(loss(outputs), [y, *chain.parameters()]))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.network.hidden[0].register_forward_hook(lambda *_: None),
        lambda layer: layer.network.output.conv.register_forward_pre_hook(lambda *_: None),
        lambda layer: setattr(
            layer.network.hidden[0], "conv", nn.Conv2d(1, 5, 3, padding=1, padding_mode="circular")
        ),
        lambda layer: setattr(layer.network.output.conv, "bias", None),
        lambda layer: nn.utils.parametrizations.weight_norm(layer.network.output.conv),
        lambda layer: layer.network.activations.__setitem__(0, nn.SiLU()),
    ],
    ids=["hook", "pre-hook", "padding", "bias", "parametrized", "activation"],
)
def test_what_is_exchanged_or_watched_is_called(change):
    layer, y = perturbed(), images()
    change(layer)
    layer.double()
    torch.testing.assert_close(layer.inverse_and_ladj(y), taken_apart(layer, y))


def test_autocast_reaches_the_network():
    layer, y = perturbed(activation="relu").float(), images().detach().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = convolving.conv_stack(layer.network, y)
    assert found is None


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize(
    ("rows", "height", "width"),
    [(20, 1, 1), (20, 2, 2), (16, 1, 4), (40, 4, 3), (3, 2, 2), (0, 2, 2)],
)
def test_every_form_of_a_convolution(rows, height, width, size):
    torch.manual_seed(0)
    pixels = torch.randn(rows, height, width, 3).double().requires_grad_()
    kernel = torch.randn(2, 3, size, size).double().requires_grad_()
    bias, grad = (
        torch.randn(2).double().requires_grad_(),
        torch.randn(rows, height, width, 2).double(),
    )
    wanted = F.conv2d(pixels.movedim(-1, 1), kernel, bias, padding=size // 2).movedim(1, -1)
    torch.testing.assert_close(convolved(pixels, kernel, bias), wanted)
    grads = torch.autograd.grad(wanted, (pixels, kernel, bias), grad)
    with torch.no_grad():
        torch.testing.assert_close(pulled_back(pixels, kernel, grad), grads)
