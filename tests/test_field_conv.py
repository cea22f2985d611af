"""Convolutional vector fields: their formula, their gradients, images of any size."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from case import perturb
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

from pyro_nf.nn import FieldConv, FieldMLP

torch.set_num_threads(1)

T = torch.tensor(0.3, dtype=torch.float64)
CONVS = pytest.mark.parametrize("hidden_channels", [(), (4,), (4, 3, 2)], ids=len)
MODES = pytest.mark.parametrize("time", ["concatsquash", "concat", "none"])
CONTEXT = pytest.mark.parametrize("context_dim", [0, 2])


def points(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def context_of(field: FieldConv, batch: int) -> Tensor | None:
    return points(batch, field.context_dim, seed=1) if field.context_dim else None


def perturbed(field: FieldConv, scale: float = 1.0) -> FieldConv:
    perturb(field.double(), scale)
    return field


@CONVS
@MODES
@CONTEXT
def test_a_fresh_convolution_is_zero(hidden_channels, time, context_dim) -> None:
    field = FieldConv(2, hidden_channels, time=time, context_dim=context_dim)
    for batch, height, width in ((3, 5, 4), (1, 1, 1), (0, 2, 2), (2, 1, 7)):
        context = torch.ones(batch, context_dim) if context_dim else None
        out = field(T.float(), torch.randn(batch, 2, height, width), context)
        assert out.shape == (batch, 2, height, width)
        assert out.dtype == torch.float32
        assert not out.any()


@CONVS
@MODES
@CONTEXT
def test_pointwise_convolutions_are_a_perceptron(hidden_channels, time, context_dim) -> None:
    options = {"time": time, "context_dim": context_dim, "activation": "sin"}
    conv = perturbed(FieldConv(2, hidden_channels, kernel_size=1, **options))
    dense = FieldMLP(2, hidden_channels, **options).double()
    for layer, copied in zip(
        (*conv.hidden, conv.output), (*dense.hidden, dense.output), strict=True
    ):
        copied.weight.data, copied.bias.data = layer.conv.weight[..., 0, 0], layer.conv.bias
        if time != "none":
            copied.time_weight.data = layer.shift.weight[:, 0]
        if copied.context_weight is not None:
            copied.context_weight.data = layer.shift.weight[:, time != "none" :]
        if time == "concatsquash":
            copied.gate_bias.data = layer.gate.bias
            copied.gate_time.data = layer.gate.weight[:, 0]
            if copied.gate_context is not None:
                copied.gate_context.data = layer.gate.weight[:, 1:]
    z, context = points(3, 2, 4, 5), context_of(conv, 3)
    pixels = None if context is None else context[:, None, None, :]
    want = dense(T, z.movedim(1, -1), pixels).movedim(-1, 1)
    torch.testing.assert_close(conv(T, z, context), want)


@CONVS
@MODES
@CONTEXT
def test_every_weight_of_a_convolution_gets_a_gradient(hidden_channels, time, context_dim) -> None:
    field = perturbed(FieldConv(2, hidden_channels, time=time, context_dim=context_dim))
    z = points(3, 2, 4, 5).requires_grad_()
    velocity = field(T, z, context_of(field, 3))
    (pulled,) = torch.autograd.grad(velocity, z, points(3, 2, 4, 5, seed=3), create_graph=True)
    (velocity.square().sum() + pulled.square().sum()).backward()
    for name, parameter in field.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_convolutions_see_their_neighbours_only(kernel_size: int) -> None:
    field = perturbed(FieldConv(1, (3,), kernel_size=kernel_size))
    z = points(1, 1, 11, 13).requires_grad_()
    field(T, z)[0, 0, 5, 6].backward()
    seen = z.grad[0, 0] != 0
    reach = kernel_size - 1  # of two layers
    want = torch.zeros_like(seen)
    want[5 - reach : 6 + reach, 6 - reach : 7 + reach] = True
    assert torch.equal(seen, want)


def test_convolutions_are_twice_differentiable() -> None:
    field = perturbed(FieldConv(1, (2,), context_dim=1), 0.5)
    names = [name for name, _ in field.named_parameters()]

    def velocity(t: Tensor, z: Tensor, context: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(field, dict(zip(names, parameters, strict=True)), (t, z, context))

    leaves = [T, points(2, 1, 2, 2), points(2, 1, seed=1), *field.parameters()]
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    assert gradcheck(velocity, leaves, fast_mode=True)
    assert gradgradcheck(velocity, leaves, fast_mode=True)


def test_is_a_plain_module() -> None:
    field, z = perturbed(FieldConv(3, (4,))), points(2, 3, 4, 5)
    want = field(T, z)
    other = copy.deepcopy(field).apply(lambda module: module.zero_grad())
    perturb(other, 1.0, seed=5)
    other.load_state_dict(field.state_dict())
    for twin in (other, pickle.loads(pickle.dumps(field))):
        assert torch.equal(twin(T, z), want)


@pytest.mark.parametrize("place", ["bfloat16", "meta"])
def test_dtype_and_device_follow(place: str) -> None:
    to = {"dtype": torch.bfloat16} if place == "bfloat16" else {"device": "meta"}
    z, context = torch.zeros(4, 3, 5, 5, **to), torch.zeros(4, 2, **to)
    out = FieldConv(3, (4,), context_dim=2).to(**to)(T, z, context)
    assert (out.dtype, out.device) == (z.dtype, z.device)


def test_bad_images_are_refused() -> None:
    plain, conditional = FieldConv(3), FieldConv(3, context_dim=2)
    images = torch.zeros(5, 3, 4, 4)
    with pytest.raises(ValueError, match=r"FieldConv\(channels=3\) got z of shape \(5, 4, 4, 4\)"):
        plain(T, torch.zeros(5, 4, 4, 4))
    with pytest.raises(ValueError, match=r"Pass shape \(batch, 3, height, width\)"):
        plain(T, images[0])
    with pytest.raises(ValueError, match="got no context"):
        conditional(T, images)
    with pytest.raises(ValueError, match="without a context"):
        plain(T, images, torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"context of shape \(5, 3\)"):
        conditional(T, images, torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"5 images and a context of shape \(4, 2\)"):
        conditional(T, images, torch.zeros(4, 2))


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="FieldConv got channels=0"):
        FieldConv(0)
    with pytest.raises(ValueError, match="kernel_size=4. Pass an odd number"):
        FieldConv(1, kernel_size=4)
    with pytest.raises(ValueError, match="time='late'"):
        FieldConv(1, time="late")
    with pytest.raises(ValueError, match="activation='relu'"):
        FieldConv(1, activation="relu")
