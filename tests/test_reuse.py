"""Reuse of a pass: counted, and right after every way of changing what it depended on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import CASES, Case, base_of, build, inputs
from pyro.optim.clipped_adam import ClippedAdam
from torch import Tensor, nn
from torch.func import functional_call

from pyro_nf.bijections import Affine
from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.transforms import BatchNorm, Compose, Coupling, FlowTransform, TriangularAffine

EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


class Counted(FlowTransform):
    """A shift and scale that counts its passes."""

    passes = 0

    def __init__(self, context_dim: int = 0) -> None:
        super().__init__()
        self.input_dim, self.context_dim = 3, context_dim
        self.log_scale = nn.Parameter(torch.full((3,), 0.1))
        self.shift = nn.Parameter(torch.full((3,), 0.3))

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        Counted.passes += 1
        shift = self.shift if context is None else self.shift + context.sum(-1, keepdim=True)
        y = x * self.log_scale.exp() + shift
        return y, self.log_scale.sum().expand(y.shape[:-1])

    def inverse_and_ladj(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        Counted.passes += 1
        shift = self.shift if context is None else self.shift + context.sum(-1, keepdim=True)
        x = (y - shift) * torch.exp(-self.log_scale)
        return x, -self.log_scale.sum().expand(x.shape[:-1])


def base() -> dist.TorchDistribution:
    return dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1)


def ours(*layers: FlowTransform) -> Callable[[], Any]:
    flow = Flow(DiagonalNormal(3), list(layers))
    return lambda: flow()


def third_party(*layers: FlowTransform) -> Callable[[], Any]:
    return lambda: dist.TransformedDistribution(base(), list(layers))


def torch_chain(*layers: FlowTransform) -> Callable[[], Any]:
    chain = torch.distributions.ComposeTransform(list(layers))
    return lambda: dist.TransformedDistribution(base(), [chain])


def passes(run: Callable[[], object]) -> int:
    Counted.passes = 0
    run()
    return Counted.passes


DISTRIBUTIONS = pytest.mark.parametrize("make", [ours, third_party], ids=lambda f: f.__name__)


@pytest.mark.parametrize("make", [ours, third_party, torch_chain], ids=lambda f: f.__name__)
@pytest.mark.parametrize("count", [1, 3])
def test_passes_are_counted(make: Callable[..., Any], count: int) -> None:
    d = make(*[Counted() for _ in range(count)])()
    data = torch.randn(5, 3)
    # Torch's own chain asks for the intermediate values of a draw once more (ours does not).
    extra = count if make is torch_chain and count > 1 else 0
    assert passes(lambda: d.log_prob(data)) <= count + extra
    assert passes(lambda: d.log_prob(d.rsample((5,)))) <= count + extra
    assert passes(lambda: [d.log_prob(data), d.log_prob(data)]) <= 2 * (count + extra)


def test_two_scores_of_the_users_tensor_cost_two_passes() -> None:
    d, data = ours(Counted())(), torch.randn(5, 3)
    assert passes(lambda: d.log_prob(data)) == 1
    assert passes(lambda: d.log_prob(data)) == 1
    d = third_party(Counted())()
    assert passes(lambda: [d.log_prob(data), d.log_prob(data)]) == 2


def test_our_chain_under_torchs_name_costs_one_pass_a_part() -> None:
    d = dist.TransformedDistribution(base(), [Compose([Counted(), Counted(), Counted()])])
    assert passes(lambda: d.log_prob(d.rsample((5,)))) == 3
    assert passes(lambda: d.log_prob(torch.randn(5, 3))) == 3


def test_a_bound_view_counts_the_same() -> None:
    layer = Counted(context_dim=2)
    d = dist.ConditionalTransformedDistribution(base(), [layer]).condition(torch.randn(5, 2))
    assert passes(lambda: d.log_prob(d.rsample())) == 1
    assert passes(lambda: d.log_prob(torch.randn(5, 3))) == 1


def fresh_and_equal(d: Any, value: Tensor) -> None:
    torch.testing.assert_close(d.log_prob(value), d.log_prob(value.clone()), rtol=0, atol=1e-6)


OPTIMISERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.3),
    "adam": lambda p: torch.optim.Adam(p, 0.3),
    "foreach": lambda p: torch.optim.Adam(p, 0.3, foreach=True),
    "fused": lambda p: torch.optim.Adam(p, 0.3, fused=True),
    "fused_sgd": lambda p: torch.optim.SGD(p, 0.3, fused=True),
    "pyro_clipped": lambda p: ClippedAdam(p, 0.3),
}


@DISTRIBUTIONS
@pytest.mark.parametrize("name", OPTIMISERS)
def test_step_then_evaluate(make: Callable[..., Any], name: str) -> None:
    layer = Counted()
    d = make(layer)()
    optimiser = OPTIMISERS[name](list(layer.parameters()))
    data = torch.randn(6, 3)
    draw = d.rsample((6,))
    d.log_prob(data).sum().backward(retain_graph=True)
    draw.square().mean().backward(retain_graph=True)
    optimiser.step()
    fresh_and_equal(d, data)
    fresh_and_equal(d, draw)


def _set_data(layer: Counted) -> None:
    layer.shift.data = torch.randn(3)


def _assign(layer: Counted) -> None:
    state = {"log_scale": torch.randn(3), "shift": torch.randn(3)}
    layer.load_state_dict(state, assign=True)


def _in_place(layer: Counted) -> None:
    with torch.no_grad():
        layer.shift.add_(1.0)


def _vector(layer: Counted) -> None:
    nn.utils.vector_to_parameters(torch.randn(6), layer.parameters())


def _freeze(layer: Counted) -> None:
    layer.requires_grad_(requires_grad=not layer.shift.requires_grad)


@DISTRIBUTIONS
@pytest.mark.parametrize(
    "change", [_set_data, _assign, _in_place, _vector, _freeze], ids=lambda f: f.__name__
)
def test_every_way_of_changing_a_parameter(
    make: Callable[..., Any], change: Callable[[Counted], None]
) -> None:
    layer = Counted()
    d = make(layer)()
    with torch.no_grad():
        draw = d.sample((6,))
        change(layer)
        fresh_and_equal(d, draw)
    draw = d.rsample((6,))
    change(layer)
    fresh_and_equal(d, draw)


@DISTRIBUTIONS
def test_edits_of_the_draw_and_clear_cache(make: Callable[..., Any]) -> None:
    layer = Counted()
    d = make(layer)()
    with torch.no_grad():
        draw = d.sample((6,))
        draw.add_(1.0)
        fresh_and_equal(d, draw)
        draw = d.sample((6,))
        layer.shift.data.copy_(torch.randn(3))  # leaves no trace: the documented hole
        d.clear_cache()
        layer.clear_cache()
        fresh_and_equal(d, draw)


@DISTRIBUTIONS
def test_functional_call_never_meets_a_stale_pass(make: Callable[..., Any]) -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Counted()
            self.d = make(self.layer)()

        def forward(self, value: Tensor | None = None) -> Tensor:
            return self.d.sample((3,)) if value is None else self.d.log_prob(value)

    holder = Holder()
    value: Tensor | None = None
    for _ in range(10):
        params = {"layer.log_scale": torch.randn(3), "layer.shift": torch.randn(3)}
        if value is not None:
            got = functional_call(holder, params, (value,))
            torch.testing.assert_close(got, functional_call(holder, params, (value.clone(),)))
        value = functional_call(holder, params, ())


@DISTRIBUTIONS
def test_score_gradient_of_a_sample(make: Callable[..., Any]) -> None:
    layer = Counted()
    d = make(layer)()
    draw = d.sample((6,))
    score = torch.autograd.grad(d.log_prob(draw).sum(), layer.shift)[0]
    want = torch.autograd.grad(d.log_prob(draw.clone()).sum(), layer.shift)[0]
    torch.testing.assert_close(score, want)
    assert score.abs().sum() > 0


def test_gradient_with_respect_to_the_draw_itself() -> None:
    flow = Flow(DiagonalNormal(3), Counted()).requires_grad_(requires_grad=False)
    d = flow()
    draw = d.rsample((4,)).requires_grad_()  # asked for after the draw: no reuse
    assert torch.autograd.grad(d.log_prob(draw).sum(), draw)[0].shape == (4, 3)
    trained = Flow(DiagonalNormal(3), Counted())()
    draw = trained.rsample((4,))
    grad = torch.autograd.grad(trained.log_prob(draw, reuse=False).sum(), draw)[0]
    clone = draw.detach().requires_grad_()
    torch.testing.assert_close(grad, torch.autograd.grad(trained.log_prob(clone).sum(), clone)[0])


def test_reuse_gives_the_total_gradient_of_a_draws_score() -> None:
    layer = Counted()
    d = Flow(DiagonalNormal(3), layer)()
    draw = d.rsample((4,))
    kept = torch.autograd.grad(d.log_prob(draw).sum(), layer.log_scale, retain_graph=True)[0]
    again = torch.autograd.grad(d.log_prob(draw, reuse=False).sum(), layer.log_scale)[0]
    torch.testing.assert_close(kept, again, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kept, torch.full((3,), -4.0))  # the base draw is held fixed


def test_another_context_is_another_pass() -> None:
    flow = Flow(DiagonalNormal(3), Counted(context_dim=2))
    context = torch.randn(4, 2)
    d = flow(context)
    draw = d.rsample()
    context.add_(1.0)
    fresh_and_equal(d, draw)
    other = flow(torch.randn(4, 2))
    assert passes(lambda: other.log_prob(draw)) == 1
    fresh_and_equal(other, draw)


def test_modes_in_which_nothing_is_reused() -> None:
    flow = Flow(DiagonalNormal(3), [Counted(), BatchNorm(3)])
    d = flow()
    draw = d.rsample((4,))  # batch normalisation in training: the directions disagree
    assert passes(lambda: d.log_prob(draw)) == 1
    flow.eval()
    draw = d.rsample((4,))
    assert passes(lambda: d.log_prob(draw)) == 0
    flow.transform.parts[0].train()
    assert passes(lambda: d.log_prob(draw)) == 1
    with torch.inference_mode():
        draw = d.sample((4,))
        assert passes(lambda: d.log_prob(draw)) == 1
    with torch.no_grad():
        assert passes(lambda: d.log_prob(draw)) == 1


def test_ladj_of_another_pair_is_of_that_pair() -> None:
    layer = TriangularAffine(3)
    nn.init.normal_(next(layer.parameters()))
    x1, x2 = torch.randn(5, 3), torch.randn(5, 3)
    y1 = layer(x1)
    layer(x2)
    want = layer.forward_and_ladj(x1)[1]
    torch.testing.assert_close(layer.log_abs_det_jacobian(x1, y1), want)


@EVERY
def test_three_steps_on_one_tensor_in_every_wrapper(case: Case) -> None:
    layer = build(case, scale=0.3, dtype=torch.float32)
    x, context = inputs(case, dtype=torch.float32)
    data = layer.forward_and_ladj(x, context)[0].detach()
    size = case.event_shape
    normal = dist.Normal(torch.zeros(size), torch.ones(size)).to_event(len(size))
    d = dist.ConditionalTransformedDistribution(normal, [layer]).condition(context)
    parameters = list(layer.parameters())
    if not parameters:
        return
    optimiser = torch.optim.Adam(parameters, 1e-2)
    for _ in range(3):
        loss = -d.log_prob(data).mean()
        torch.testing.assert_close(loss, -d.log_prob(data.clone()).mean(), rtol=1e-5, atol=1e-5)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@EVERY
def test_own_draws_score_alike_reused_or_not(case: Case) -> None:
    layer = build(case, scale=0.3)
    _, context = inputs(case)
    base, reshape = base_of(case)
    flow = Flow(base.double(), [*reshape, layer])
    d = flow(context)
    draw = d.rsample((2,))
    slack = {"rtol": 1e-8, "atol": 1e-8} | case.slack
    torch.testing.assert_close(d.log_prob(draw), d.log_prob(draw, reuse=False), **slack)
    again = copy.deepcopy(d)
    torch.testing.assert_close(again.log_prob(draw), d.log_prob(draw), **slack)


def test_svi_on_one_tensor() -> None:
    pyro.clear_param_store()
    layer, data = Counted(), torch.randn(20, 3)

    def model(data: Tensor) -> None:
        pyro.module("layer", layer)
        with pyro.plate("rows", len(data)):
            pyro.sample("x", dist.TransformedDistribution(base(), [layer]), obs=data)

    svi = pyro.infer.SVI(
        model, lambda data: None, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO()
    )
    losses = [svi.step(data) for _ in range(3)]
    assert losses[2] < losses[0]
    pyro.clear_param_store()


def test_inference_tensors_are_used_and_not_reused() -> None:
    with torch.inference_mode():
        context = torch.randn(4, 2)
        built = Flow(DiagonalNormal(3), Counted())
    flow = Flow(DiagonalNormal(3), Counted(context_dim=2))
    for d in (flow(context), built()):
        draw = d.sample()
        assert passes(lambda d=d, draw=draw: d.log_prob(draw)) == 1
        with torch.no_grad():
            fresh_and_equal(d, draw)


@pytest.mark.parametrize(
    "unsteady",
    [
        lambda: dist.transforms.batchnorm(3),
        lambda: Coupling(Affine(), 3, hidden_dims=(8,), activation=nn.RReLU()),
        lambda: Coupling(Affine(), 3, hidden_dims=(8,), activation=nn.Dropout(0.5)),
    ],
    ids=["pyro_batchnorm", "rrelu", "dropout"],
)
def test_layers_unsteady_in_training_are_not_reused(unsteady: Callable[[], Any]) -> None:
    flow = Flow(DiagonalNormal(3), [unsteady(), Counted()])
    d = flow()
    draw = d.rsample((5,))
    assert passes(lambda: d.log_prob(draw)) == 1
    flow.eval()
    draw = d.rsample((5,))
    assert passes(lambda: d.log_prob(draw)) == 0


def test_a_draw_under_autocast_is_scored_anew_outside() -> None:
    d = Flow(DiagonalNormal(3), Counted())()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        draw = d.rsample((5,))
    assert passes(lambda: d.log_prob(draw)) == 1
