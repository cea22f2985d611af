"""Bijections and wirings that differentiate themselves, against ordinary autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import grad

from pyro_nf import flows
from pyro_nf import nn as networks
from pyro_nf.bijections import Affine, RationalQuadraticSpline
from pyro_nf.bijections._closed_form import ClosedForm
from pyro_nf.transforms import Autoregressive, Coupling

BIJECTIONS = {
    "affine": Affine(),
    "affine, uneven bounds": Affine(3.0, -1.0),
    "spline": RationalQuadraticSpline(bins=4, bound=2.0),
    "spline, free ends": RationalQuadraticSpline(bins=5, bound=2.0, boundary_slopes="learned"),
}
LAYERS = {
    "coupling, first half": lambda f, c: Coupling(f, 5, context_dim=c, hidden_dims=(7, 6)),
    "coupling, last half": lambda f, c: Coupling(
        f, 4, mask=[False, False, True, True], context_dim=c, hidden_dims=(7,)
    ),
    "coupling, gathered": lambda f, c: Coupling(
        f, 5, mask="alternating", context_dim=c, hidden_dims=(7, 6), activation="tanh"
    ),
    "coupling of one": lambda f, c: Coupling(f, 1, context_dim=c, hidden_dims=(4,)),
    "maf": lambda f, c: Autoregressive(
        f, 4, fast="log_prob", context_dim=c, hidden_dims=(9, 8), activation="sigmoid"
    ),
    "iaf": lambda f, c: Autoregressive(
        f, 4, fast="sample", order=[2, 0, 3, 1], context_dim=c, hidden_dims=(9, 8)
    ),
    "linear maf": lambda f, c: Autoregressive(
        f, 3, fast="log_prob", context_dim=c, hidden_dims=()
    ),
}

each_bijection = pytest.mark.parametrize("bijection", BIJECTIONS.values(), ids=BIJECTIONS)
each_direction = pytest.mark.parametrize("direction", ["forward", "inverse"])
each_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
each_context = pytest.mark.parametrize("context_dim", [0, 2])


def random_layer(make, bijection: ClosedForm, context_dim: int) -> nn.Module:
    layer = make(bijection, context_dim).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.7, generator=generator)
    return layer


def fast_pass(layer: nn.Module):
    slow_forward = isinstance(layer, Autoregressive) and layer.fast == "log_prob"
    return layer.inverse_and_ladj if slow_forward else layer.forward_and_ladj


def recorded(layer: nn.Module, *inputs: torch.Tensor | None):
    """The pass on the ordinary path: an onlooker at the network forbids the short one."""
    handle = layer.network.register_forward_hook(lambda *_: None)
    try:
        return fast_pass(layer)(*inputs)
    finally:
        handle.remove()


def node_names(output: torch.Tensor) -> set[str]:
    seen, stack = set(), [output.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [following for following, _ in node.next_functions]
    return {type(node).__name__ for node in seen}


@each_direction
@each_bijection
def test_a_mapped_gradient_of_a_bijection(bijection, direction):
    value = torch.randn(3, dtype=torch.float64, requires_grad=True)
    params = torch.randn(bijection.param_count, 3, dtype=torch.float64, requires_grad=True)
    for out in getattr(bijection, direction)(value, params):
        inputs = (value, params)
        rows = grad(out, inputs, torch.eye(3).double(), is_grads_batched=True, retain_graph=True)
        single = grad(out, inputs, torch.ones(3).double(), retain_graph=True)
        torch.testing.assert_close([row.sum(0) for row in rows], list(single))


@each_direction
@each_bijection
def test_first_and_second_derivatives_of_a_bijection(bijection, direction):
    value = torch.randn(6, dtype=torch.float64, requires_grad=True)
    params = torch.randn(bijection.param_count, 6, dtype=torch.float64, requires_grad=True)

    def closed(value, params):
        return getattr(bijection, direction)(value, params)

    def plain(value, params):
        return bijection.evaluate(value, params, direction)

    upstream = torch.randn(2, 6, dtype=torch.float64)
    firsts = [grad(f(value, params), (value, params), [*upstream]) for f in (closed, plain)]
    torch.testing.assert_close(*firsts)
    assert torch.autograd.gradgradcheck(closed, (value, params))


@each_context
@each_bijection
@each_layer
def test_a_wiring_in_one_node_equals_the_recorded_one(make, bijection, context_dim):
    layer = random_layer(make, bijection, context_dim)
    x = torch.randn(3, 4, layer.input_dim, dtype=torch.float64, requires_grad=True)
    context = torch.randn(4, 2, dtype=torch.float64, requires_grad=True) if context_dim else None
    inputs = [x, *([context] if context_dim else []), *layer.parameters()]
    short, long = fast_pass(layer)(x, context), recorded(layer, x, context)
    assert "WiringNodeBackward" in node_names(short[0])
    assert "DenseStackBackward" not in node_names(short[0])
    torch.testing.assert_close(short, long, rtol=1e-12, atol=1e-12)
    upstream = [torch.randn_like(out) for out in short]
    for picked in ([0, 1], [0], [1]):
        gradients = [
            grad(
                [outs[i] for i in picked],
                inputs,
                [upstream[i] for i in picked],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            for outs in (short, long)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        torch.testing.assert_close(fast_pass(layer)(x, context), long, rtol=1e-12, atol=1e-12)


@each_layer
def test_derivatives_of_derivatives_of_a_wiring(make):
    layer = random_layer(make, Affine(), 2)
    x = torch.randn(2, layer.input_dim, dtype=torch.float64, requires_grad=True)
    context = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    parameters = list(layer.parameters())

    def passes(x, context, *_):
        return fast_pass(layer)(x, context)

    # Smooth networks only: where a ReLU bends, a difference quotient sees both sides.
    if "tanh" in str(layer).lower() or "sigmoid" in str(layer).lower():
        assert torch.autograd.gradgradcheck(passes, (x, context, *parameters))
    y, ladj = passes(x, context)
    first = grad(y.square().sum() + ladj.sum(), (x, *parameters), create_graph=True)
    second = grad(sum(g.square().sum() for g in first), (x, context), allow_unused=True)
    y, ladj = recorded(layer, x, context)
    first = grad(y.square().sum() + ladj.sum(), (x, *parameters), create_graph=True)
    expected = grad(sum(g.square().sum() for g in first), (x, context), allow_unused=True)
    torch.testing.assert_close(second, expected, rtol=1e-9, atol=1e-10)


@each_layer
def test_a_graph_is_used_twice_and_frozen_parameters_stay_out(make):
    layer = random_layer(make, Affine(), 0)
    frozen, *others = layer.parameters()
    frozen.requires_grad = False
    x = torch.randn(5, layer.input_dim, dtype=torch.float64)
    loss = sum(out.sum() for out in fast_pass(layer)(x))
    first = grad(loss, others, retain_graph=True)
    torch.testing.assert_close(grad(loss, others), first, rtol=0, atol=0)
    loss = sum(out.sum() for out in fast_pass(layer)(x))
    loss.backward()
    assert frozen.grad is None


@each_layer
def test_empty_and_single_batches(make):
    layer = random_layer(make, Affine(), 0)
    for batch in ((), (0,), (2, 0), (1,)):
        x = torch.randn(*batch, layer.input_dim, dtype=torch.float64, requires_grad=True)
        y, ladj = fast_pass(layer)(x)
        assert y.shape == x.shape
        assert ladj.shape == torch.Size(batch)
        (y.sum() + ladj.sum()).backward()
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("part", ["network", "network.hidden.0", "network.activations.0"])
def test_a_hook_sees_its_module_run(part):
    layer = random_layer(LAYERS["maf"], Affine(), 0)
    calls = []
    layer.get_submodule(part).register_forward_hook(lambda *_: calls.append(part))
    layer.inverse_and_ladj(torch.randn(2, 4, dtype=torch.float64))
    assert calls == [part]


def test_an_exchanged_layer_is_run():
    class Doubled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x, context=None):
            return 2 * self.inner(x, context)

    layer = random_layer(LAYERS["maf"], Affine(), 0)
    x = torch.randn(2, 4, dtype=torch.float64)
    before = layer.inverse_and_ladj(x)[0]
    layer.network.output = Doubled(layer.network.output)
    assert (layer.inverse_and_ladj(x)[0] - before).abs().max() > 1e-3


def test_mixed_precision_takes_the_ordinary_path():
    layer = random_layer(LAYERS["maf"], Affine(), 0).float()
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = layer.inverse_and_ladj(torch.randn(2, 4, requires_grad=True))
    assert "WiringNodeBackward" not in node_names(y)


def test_the_network_alone_in_one_node():
    network = networks.MLP(3, 4, (6, 5), context_dim=2, zero_init=False).double()
    x = torch.randn(3, 7, 2, dtype=torch.float64, requires_grad=True)
    context = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    short = network(x, context)
    handle = network.activations[0].register_forward_hook(lambda *_: None)
    long = network(x, context)
    handle.remove()
    assert "DenseStackBackward" in node_names(short)
    assert "DenseStackBackward" not in node_names(long)
    torch.testing.assert_close(short, long)
    upstream, inputs = torch.randn_like(short), (x, context, *network.parameters())
    torch.testing.assert_close(grad(short, inputs, upstream), grad(long, inputs, upstream))


@pytest.mark.parametrize("name", ["realnvp", "maf", "iaf", "nsf"])
def test_an_autocast_around_the_backward_does_not_reach_it(name):
    flow = getattr(flows, name)(4, transforms=2, hidden_dims=(8,))
    x = torch.randn(5, 4)

    def gradients(*, autocast):
        loss = flow().log_prob(x).sum()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return grad(loss, list(flow.parameters()), allow_unused=True, materialize_grads=True)

    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.normal_(0, 0.5)
    torch.testing.assert_close(gradients(autocast=True), gradients(autocast=False))


def test_a_forward_put_on_an_object_is_run():
    layer = random_layer(LAYERS["maf"], Affine(), 0)
    x = torch.randn(2, 4, dtype=torch.float64)
    before, run = layer.inverse_and_ladj(x)[0], layer.network.output.forward
    layer.network.output.forward = lambda *args: 2 * run(*args)
    assert (layer.inverse_and_ladj(x)[0] - before).abs().max() > 1e-3


def test_a_subclass_of_a_closed_form_is_asked():
    class Twice(Affine):
        def forward(self, x, params):
            return 2 * x, torch.full_like(x, 2.0).log()

        def inverse(self, y, params):
            return y / 2, torch.full_like(y, 0.5).log()

    y, ladj = Coupling(Twice(), 3).forward_and_ladj(torch.ones(3))
    assert y.tolist() == [1, 2, 2]
    torch.testing.assert_close(ladj, torch.tensor(4.0).log())
    x, _ = Autoregressive(Twice(), 3, fast="sample").inverse_and_ladj(torch.ones(3))
    assert x.tolist() == [0.5, 0.5, 0.5]


def test_a_mask_written_before_the_backward_is_noticed():
    layer = random_layer(LAYERS["maf"], Affine(), 0)
    y, _ = layer.inverse_and_ladj(torch.randn(2, 4, dtype=torch.float64))
    layer.network.hidden[0].mask.mul_(0.0)
    with pytest.raises(RuntimeError, match="inplace operation"):
        y.sum().backward()
