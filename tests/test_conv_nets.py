"""Networks of images: shapes, contexts, derivatives, errors."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from pyro_nf.nn import ConvNet, GatedConvNet, ResidualConvNet
from pyro_nf.nn._positions import positions

torch.set_num_threads(1)

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "conv": partial(ConvNet, 2, 3, (5, 4), activation="silu"),
    "residual": partial(ResidualConvNet, 2, 3, 4, blocks=1, activation="silu"),
    "gated": partial(GatedConvNet, 2, 3, 4, blocks=1, heads=2),
    "gated-plain": partial(GatedConvNet, 2, 3, 5, attention="none", activation="silu"),
    "linear": partial(ConvNet, 2, 3, ()),
}
CONTEXTS: dict[str, dict] = {
    "none": {},
    "vector": {"context_dim": 3},
    "map": {"context_shape": (2, 3, 2)},
}
EVERY = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
IN_CONTEXT = pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)


def perturbed(make: Callable[..., nn.Module], **options: object) -> nn.Module:
    torch.manual_seed(0)
    network = make(**options).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.4)
    return network


def given(network: nn.Module, *batch: int, size: tuple[int, int] = (4, 3)) -> list[Tensor]:
    """Images, and a context if the network takes one."""
    torch.manual_seed(1)
    images = torch.randn(*batch, 2, *size).double()
    if not network.context_dim:
        return [images]
    return [images, torch.randn(*batch, network.context_dim).double()]


@EVERY
@IN_CONTEXT
def test_fresh_network_returns_zero(make: Callable[..., nn.Module], context: dict) -> None:
    network = make(**context).double()
    assert torch.equal(network(*given(network, 5)), torch.zeros(5, 3, 4, 3).double())
    assert network.__class__.__name__ in repr(network)


@EVERY
@IN_CONTEXT
def test_a_row_does_not_know_the_others(make: Callable[..., nn.Module], context: dict) -> None:
    network = perturbed(make, **context)
    inputs = given(network, 2, 3)
    images = network(*inputs)
    assert images.shape == (2, 3, 3, 4, 3)
    torch.testing.assert_close(network(*(value[1, 2] for value in inputs)), images[1, 2])
    assert network(*(value[:0] for value in inputs)).shape == (0, 3, 3, 4, 3)
    torch.testing.assert_close(torch.vmap(network)(*inputs), images)


@EVERY
@pytest.mark.parametrize("context", [CONTEXTS["vector"], CONTEXTS["map"]], ids=["vector", "map"])
def test_context_batches_align_right(make: Callable[..., nn.Module], context: dict) -> None:
    network = perturbed(make, **context)
    images, c = given(network, 2, 3)
    for part in (c[0], c[:, :1], c[0, 0], c[0, :1]):
        full = part.expand(2, 3, network.context_dim)
        torch.testing.assert_close(network(images, part), network(images, full.clone()))
    with pytest.raises(ValueError, match="expand x first"):
        network(images[0, :1], c[0])
    with pytest.raises(ValueError, match="expand x first"):
        network(images[0], c)


def test_work_on_the_context_is_done_once_for_each_of_its_rows() -> None:
    network = ConvNet(2, 3, (4,), context_dim=3)
    rows = []
    reader = network.hidden[0].modulation.numbers.reader
    reader.register_forward_hook(lambda _, inputs, out: rows.append(len(out)))
    network(torch.zeros(10, 5, 2, 4, 3), torch.zeros(5, 3))
    assert rows == [5]


@EVERY
@IN_CONTEXT
def test_one_network_serves_every_size(make: Callable[..., nn.Module], context: dict) -> None:
    network = perturbed(make, **context)
    for size in ((1, 1), (2, 5), (7, 4)):
        assert network(*given(network, 2, size=size)).shape == (2, 3, *size)


def test_a_feature_map_is_averaged_or_repeated_to_size() -> None:
    """What a constant map says does not depend on its size, what a pixel says stays in place."""
    network = perturbed(partial(ConvNet, 1, 1, (4,)), context_shape=(1, 2, 2))
    x = torch.zeros(1, 8, 8).double()
    c = torch.randn(1, 2, 2).double()
    bigger = perturbed(partial(ConvNet, 1, 1, (4,)), context_shape=(1, 8, 8))
    bigger.load_state_dict(network.state_dict())
    repeated = c.repeat_interleave(4, 1).repeat_interleave(4, 2)
    torch.testing.assert_close(network(x, c.flatten()), bigger(x, repeated.flatten()))
    small = x[:, :2, :2]
    torch.testing.assert_close(bigger(small, repeated.flatten()), network(small, c.flatten()))


@EVERY
@IN_CONTEXT
def test_derivatives_of_every_kind(make: Callable[..., nn.Module], context: dict) -> None:
    network = perturbed(make, **context)
    row = [value[0] for value in given(network, 1, size=(3, 2))]
    run = lambda *values: network(*values).sin()  # noqa: E731
    where = tuple(range(len(row)))
    want = torch.autograd.functional.jacobian(run, tuple(row))
    with warnings.catch_warnings():
        # Torch scripts a decomposition of its own when forward mode is first used.
        warnings.simplefilter("ignore", DeprecationWarning)
        for transform in (torch.func.jacrev, torch.func.jacfwd):
            torch.testing.assert_close(transform(run, where)(*row), want)
    leaves = [value.requires_grad_() for value in row]
    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


@EVERY
@IN_CONTEXT
def test_every_parameter_gets_a_gradient(make: Callable[..., nn.Module], context: dict) -> None:
    network = perturbed(make, **context)
    network(*given(network, 4)).sin().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@EVERY
def test_every_parameter_learns_from_the_start(make: Callable[..., nn.Module]) -> None:
    """Layers that start at 0 must not keep each other there."""
    network = make(context_dim=3).double()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    before = copy.deepcopy(network.state_dict())
    inputs = given(network, 8)
    target = torch.randn(8, 3, 4, 3).double()
    for _ in range(3):
        optimizer.zero_grad()
        (network(*inputs) - target).square().mean().backward()
        optimizer.step()
    for name, value in network.state_dict().items():
        assert not torch.equal(value, before[name]), name


@EVERY
@IN_CONTEXT
def test_travels_and_keeps_dtypes(make: Callable[..., nn.Module], context: dict) -> None:
    network = perturbed(make, **context)
    inputs = given(network, 2)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(*inputs), network(*inputs))
    for dtype in (torch.float32, torch.bfloat16):
        out = network.to(dtype)(*(value.to(dtype) for value in inputs))
        assert out.dtype == dtype
    meta = network.to("meta")(*(value.to("meta", dtype) for value in inputs))
    assert meta.device.type == "meta"


@EVERY
def test_compiles_without_a_break(make: Callable[..., nn.Module]) -> None:
    network = perturbed(make, context_dim=3)
    inputs = given(network, 2)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), network(*inputs))


def test_an_in_place_activation_is_not_seen() -> None:
    relu = nn.ReLU()
    network = ConvNet(2, 3, (4, 4), activation=relu)
    assert not relu.inplace
    x = torch.randn(5, 2, 4, 3)
    before = x.clone()
    h = x
    for layer in network.hidden:
        h = layer(h, None).relu()
    torch.testing.assert_close(network(x), network.output(h, None))
    assert torch.equal(x, before)


def test_blocks_start_as_the_identity() -> None:
    shallow, deep = (ResidualConvNet(2, 3, 4, blocks=n, zero_init=False) for n in (0, 6))
    deep.load_state_dict(shallow.state_dict(), strict=False)
    x = torch.randn(5, 2, 4, 3)
    torch.testing.assert_close(deep(x), shallow(x))


def test_attention_sees_every_pixel_and_where_it_is() -> None:
    reach = {}
    for attention in ("full", "none"):
        network = perturbed(partial(GatedConvNet, 1, 1, 4, blocks=1, attention=attention))
        x = torch.randn(1, 1, 9, 9).double().requires_grad_()
        slope = torch.autograd.grad(network(x)[0, 0, 0, 0], x)[0]
        reach[attention] = int((slope != 0).sum())
    assert reach == {"full": 81, "none": 16}  # three kernels of 3×3 see 4×4 pixels of a corner
    encoding = positions(5, 7, 6, torch.zeros((), dtype=torch.float64)).flatten(0, 1)
    assert torch.cdist(encoding, encoding).fill_diagonal_(1).min() > 0.1
    assert positions(2, 3, 5, torch.zeros(())).shape == (2, 3, 5)


def test_dropout_acts_in_training_alone() -> None:
    network = GatedConvNet(2, 3, 4, dropout=0.5, zero_init=False)
    x = torch.randn(5, 2, 4, 3)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_sizes_are_checked() -> None:
    for make, words in (
        (lambda: ConvNet(0, 3), "input_channels"),
        (lambda: ConvNet(2, 3, (4, 4), kernel_sizes=(3, 2, 3)), "odd"),
        (lambda: ConvNet(2, 3, (4,), kernel_sizes=(3, 1, 3)), "2 convolutions"),
        (lambda: ConvNet(2, 3, context_shape=(2, 3)), "channels, height, width"),
        (lambda: ConvNet(2, 3, context_shape=(2, 0, 3)), r"context_shape\[1\]"),
        (lambda: ConvNet(2, 3, context_dim=5, context_shape=(2, 3, 2)), "Leave context_dim out"),
        (lambda: ResidualConvNet(2, 3, kernel_size=4), "odd"),
        (lambda: ResidualConvNet(2, 3, blocks=-1), "blocks"),
        (lambda: GatedConvNet(2, 3, 6, heads=4), "do not divide"),
        (lambda: GatedConvNet(2, 3, attention="local"), "attention"),
        (lambda: GatedConvNet(2, 3, dropout=1.0), "dropout"),
        (lambda: GatedConvNet(2, 3, activation="swoosh"), "activation"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    for make in (
        lambda: ConvNet(2, 3, 64),
        lambda: ConvNet(2, 3, kernel_sizes=3),
        lambda: ConvNet(2, 3, context_shape=12),
    ):
        with pytest.raises(TypeError, match="Pass"):
            make()


@EVERY
def test_inputs_are_checked(make: Callable[..., nn.Module]) -> None:
    plain, conditional = make(), make(context_shape=(2, 3, 2))
    x, c = torch.zeros(5, 2, 4, 3), torch.zeros(5, 12)
    for run, words in (
        (lambda: plain(x[:, :1]), r"input_channels=2\) got x of shape \(5, 1, 4, 3\)"),
        (lambda: plain(x[0, 0]), "got x of shape"),
        (lambda: plain(x, c), "without a context"),
        (lambda: conditional(x), "got no context"),
        (lambda: conditional(x, c[:, 1:]), "context_dim=12"),
        (lambda: conditional(x, c[:3]), "one context for each image"),
    ):
        with pytest.raises(ValueError, match=words):
            run()
