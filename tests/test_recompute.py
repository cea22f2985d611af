"""Activations computed again for the gradient: the same numbers, in less memory."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable

import guide_models as models
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from pyro_nf import flows, infer
from pyro_nf import transforms as T
from pyro_nf.bijections import Affine, ConvergenceError
from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.infer._path_gradient import PathGradientDistribution
from pyro_nf.infer.autoguide import AutoFlow
from pyro_nf.nn import FieldMLP

torch.set_num_threads(1)

DIM = 3
SMALL = {"hidden_dims": (6,), "activation": "silu"}


def perturbed(module: nn.Module, size: float = 0.3) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return module.double()


def coupling(**options) -> T.Coupling:
    return T.Coupling(Affine(), DIM, **{**SMALL, **options})


def normalized() -> T.Coupling:
    layer = coupling()
    nn.init.normal_(layer.network.output.weight)  # of several ranks, so that its vectors move
    spectral_norm(layer.network.output)
    return layer


def nested() -> T.Compose:
    inner = [T.Compose([coupling() for _ in range(4)]).inv for _ in range(3)]
    return T.Compose([*inner, coupling()])


def stacked(make: Callable[[], T.FlowTransform], count: int = 5) -> Callable[[], T.FlowTransform]:
    return lambda: T.Compose([make() for _ in range(count)])


CHAINS: dict[str, Callable[[], T.FlowTransform]] = {
    "realnvp": lambda: flows.realnvp(DIM, transforms=5, **SMALL).transform,
    "context": lambda: flows.realnvp(DIM, transforms=5, context_dim=2, **SMALL).transform,
    "maf": lambda: flows.maf(DIM, transforms=5, **SMALL).transform,
    "nsf": lambda: flows.nsf(DIM, transforms=5, wiring="coupling", **SMALL).transform,
    "nested": nested,
    "events": lambda: T.Compose(
        [coupling(), dist.transforms.ExpTransform(), T.ActNorm(DIM), T.Permutation([2, 0, 1])] * 2
    ),
    "dropout": stacked(lambda: coupling(activation=nn.Dropout(0.5))),
    "batchnorm": stacked(lambda: T.BatchNorm(DIM)),
    "spectral norm": stacked(normalized),
    "power": stacked(lambda: T.InvertibleResidual(DIM, fast="log_prob", norm="power")),
    "roulette": stacked(lambda: T.InvertibleResidual(DIM, fast="log_prob", log_det="roulette")),
    "noise": stacked(lambda: T.Continuous(FieldMLP(DIM, (6,)), trace="hutchinson"), 3),
    "adjoint": stacked(lambda: T.Continuous(FieldMLP(DIM, (6,)), gradient="adjoint"), 3),
}
EVERY = pytest.mark.parametrize("name", CHAINS)
BOTH = pytest.mark.parametrize("direction", ["forward_and_ladj", "inverse_and_ladj"])


def flow_of(name: str, segments: int | None) -> Flow:
    torch.manual_seed(0)
    flow = Flow(DiagonalNormal(DIM), perturbed(CHAINS[name]()))
    return flow.recompute_activations(segments)


def inputs(flow: Flow, rows: int = 7) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    sizes = [DIM, *([flow.context_dim] if flow.context_dim else [])]
    return [
        torch.randn(rows, size, generator=generator, dtype=torch.float64).requires_grad_()
        for size in sizes
    ]


def data_side(flow: Flow, given: list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        y = copy.deepcopy(flow).transform.eval().forward_and_ladj(*given)[0]
    return [y.requires_grad_(), *given[1:]]


def results(name: str, direction: str, segments: int | None) -> list[Tensor | None]:
    """Values, every gradient, buffers and the state of the generator."""
    flow = flow_of(name, segments)
    given = inputs(flow)
    if direction == "inverse_and_ladj":
        given = data_side(flow, given)
    torch.manual_seed(3)
    y, ladj = getattr(flow.transform, direction)(*given)
    (y.square().sum() + ladj.sin().sum()).backward()
    grads = [tensor.grad for tensor in (*given, *flow.parameters())]
    return [y, ladj, *grads, *flow.buffers(), torch.rand(1)]


def assert_same(got: list[Tensor | None], want: list[Tensor | None]) -> None:
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


@EVERY
@BOTH
def test_numbers_are_exactly_the_same(name, direction):
    want = results(name, direction, 0)
    assert_same(results(name, direction, None), want)
    assert_same(results(name, direction, 100), want)  # each layer by itself


class Watched(T.FlowTransform):
    """A layer that knows its passes and which of its activations are alive."""

    input_dim = DIM

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(DIM, dtype=torch.float64) / 2)
        self.passes = 0
        self.kept: list[weakref.ref[Tensor]] = []

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.passes += 1
        bent = (self.scale * x).tanh()
        self.kept.append(weakref.ref(bent.untyped_storage()))
        self.record("bent", bent.square().sum(-1))
        return x + bent, bent.sum(-1)

    inverse_and_ladj = forward_and_ladj


@pytest.mark.parametrize(("segments", "alive", "extra"), [(0, 16, 0), (1, 16, 0), (4, 4, 12)])
def test_activations_of_one_segment_are_kept_and_the_others_computed_once_more(
    segments, alive, extra
):
    layers = [Watched() for _ in range(16)]
    chain = T.Compose(layers, recompute_segments=segments)
    x = torch.randn(5, DIM, dtype=torch.float64)
    y, ladj = chain.forward_and_ladj(x)
    gc.collect()
    assert sum(reference() is not None for layer in layers for reference in layer.kept) == alive
    (y.sum() + ladj.sum()).backward()
    assert sum(layer.passes for layer in layers) == 16 + extra


def test_nothing_is_recomputed_without_a_gradient():
    layers = [Watched() for _ in range(4)]
    chain = T.Compose(layers, recompute_segments=None)
    assert chain.recompute_segments == 2
    with torch.no_grad():
        chain.forward_and_ladj(torch.randn(5, DIM, dtype=torch.float64))
    with torch.inference_mode():
        chain.forward_and_ladj(torch.randn(5, DIM, dtype=torch.float64))
    assert [layer.passes for layer in layers] == [2] * 4


def test_side_results_come_once_and_have_gradients():
    x = torch.randn(5, DIM, dtype=torch.float64)
    found = {}
    for segments in (0, 3):
        flow = Flow(DiagonalNormal(DIM).double(), [Watched() for _ in range(9)])
        flow.recompute_activations(segments)
        with flow.auxiliary() as outer, flow.auxiliary(["other"]) as other:
            loss = -flow().log_prob(x).mean() + outer["bent"].mean()
            bent = outer["bent"].detach().clone()
            loss.backward()
        assert other == {}
        assert torch.equal(outer["bent"], bent)
        found[segments] = [bent, *(p.grad for p in flow.parameters())]
    assert_same(found[3], found[0])


class Selective(Watched):
    """Records only where it is asked to, so that the graph depends on who listens."""

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, ladj = super().forward_and_ladj(x)
        if self.wanted("cube"):
            self.record("cube", (self.scale * y).pow(3).sum(-1))
        return y, ladj

    inverse_and_ladj = forward_and_ladj


@pytest.mark.parametrize("listens", ["in the pass", "in the backward"])
def test_the_listeners_of_the_pass_are_those_of_the_recomputation(listens):
    chain = T.Compose([Selective() for _ in range(4)], recompute_segments=4)
    x = torch.randn(5, DIM, dtype=torch.float64)
    if listens == "in the pass":
        with chain.auxiliary() as results:
            ladj = chain.forward_and_ladj(x)[1]
        (ladj.sum() + results["cube"].sum()).backward()
        return
    ladj = chain.forward_and_ladj(x)[1]
    with chain.auxiliary() as results:
        ladj.sum().backward()
    assert results == {}


@EVERY
def test_a_change_of_mode_before_the_gradient_does_not_count(name):
    found = []
    for segments, change in ((0, False), (None, True)):
        flow = flow_of(name, segments)
        given = data_side(flow, inputs(flow))
        torch.manual_seed(3)
        y, ladj = flow.transform.inverse_and_ladj(*given)
        if change:
            flow.eval()
        (y.square().sum() + ladj.sum()).backward()
        if change:
            assert not any(part.training for part in flow.modules())
        found.append([p.grad for p in flow.parameters()])
    assert_same(*found)


@pytest.mark.parametrize("name", ["realnvp", "maf"])
def test_path_gradients_hold_parameters_constant_in_the_recomputation(name):
    found = []
    for segments in (0, None):
        flow = flow_of(name, segments)
        torch.manual_seed(3)
        q = PathGradientDistribution(flow.base.double(), flow.transform)
        z = q.rsample((5,))
        (q.log_prob(z) + z.pow(4).sum(-1)).mean().backward()
        assert all(p.requires_grad for p in flow.parameters())
        found.append([p.grad for p in flow.parameters()])
    assert_same(*found)


@pytest.mark.parametrize("name", ["realnvp", "context", "maf", "nsf", "nested", "batchnorm"])
def test_second_derivatives(name):
    found = []
    for segments in (0, None):
        flow = flow_of(name, segments)
        given = data_side(flow, inputs(flow, 4))
        x, ladj = flow.transform.inverse_and_ladj(*given)
        loss = x.square().sum() + ladj.sin().sum()
        grads = torch.autograd.grad(loss, given, create_graph=True)
        sum(grad.square().sum() for grad in grads).backward()
        found.append([t.grad for t in (*given, *flow.parameters())])
    assert_same(*found)


def test_gradients_twice_through_one_graph():
    flow = flow_of("realnvp", None)
    loss = flow().log_prob(inputs(flow)[0]).sum()
    parameters = list(flow.parameters())
    first = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    assert_same(list(torch.autograd.grad(loss, parameters, allow_unused=True)), list(first))


def test_tracers_pass_through():
    plain, flow = flow_of("realnvp", 0), flow_of("realnvp", None)
    (x,) = inputs(flow)
    x = x.detach()

    def score(flow: Flow) -> Callable[[Tensor], Tensor]:
        return lambda x: flow.transform.inverse_and_ladj(x)[1].sum()

    for derive in (torch.func.grad, torch.func.jacfwd, torch.func.hessian, torch.vmap):
        got, want = (derive(score(f))(x[:2]) for f in (flow, plain))
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    compiled = torch.compile(score(flow), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), score(plain)(x))
    jacobian = torch.autograd.functional.jacobian
    torch.testing.assert_close(
        jacobian(flow.transform.inv, x[:2], vectorize=True),
        jacobian(plain.transform.inv, x[:2], vectorize=True),
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [("parameter", "changed in place.*Take the gradient before"), ("data", "inplace operation")],
)
def test_changes_in_place_before_the_gradient_are_refused(changed, message):
    flow = flow_of("realnvp", None)
    x = inputs(flow)[0].detach()
    loss = flow().log_prob(x).sum()
    with torch.no_grad():
        (next(flow.transform.parts[-1].parameters()) if changed == "parameter" else x).mul_(2)
    with pytest.raises(RuntimeError, match=message):
        loss.backward()


class Failing(Watched):
    """A layer whose second pass finds no root."""

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.passes:
            raise ConvergenceError("none found")
        return super().forward_and_ladj(x)

    inverse_and_ladj = forward_and_ladj


def test_errors_of_the_recomputation_pass_through_and_leave_the_modes():
    chain = T.Compose([Failing() for _ in range(4)], recompute_segments=None)
    ladj = chain.forward_and_ladj(torch.randn(5, DIM, dtype=torch.float64))[1]
    chain.eval()
    with pytest.raises(ConvergenceError, match="none found"):
        ladj.sum().backward()
    assert not any(part.training for part in chain.modules())


def test_sampled_weights_are_those_of_the_pass():
    layers = [coupling() for _ in range(4)]
    bayesian = PyroModule[T.Elementwise](Affine(), DIM)
    bayesian.constants = PyroSample(dist.Normal(0.0, 0.1).expand([2, DIM]).to_event(2))
    found = []
    for segments in (0, 5):
        flow = Flow(DiagonalNormal(DIM), [bayesian, *layers]).recompute_activations(segments)
        flow.zero_grad()
        torch.manual_seed(3)
        flow().log_prob(torch.ones(7, DIM)).sum().backward()
        found.append([p.grad for p in flow.parameters()])
    assert_same(*found)


def test_fits_are_the_same():
    x = torch.randn(200, DIM) @ torch.randn(DIM, DIM)
    losses = []
    for segments in (0, None):
        torch.manual_seed(0)
        flow = flows.maf(DIM, transforms=5, **SMALL).recompute_activations(segments)
        losses.append(infer.fit_density(flow, x, max_steps=20, progress=False).train_losses)
    assert losses[0] == losses[1]


def test_guides_are_the_same():
    found = []
    for segments in (0, 3):
        torch.manual_seed(0)
        guide = AutoFlow(models.schools).setup(models.Y, models.SIGMA)
        for part in guide.posterior.modules():
            part.recompute_segments = segments  # chains read it
        fit = infer.fit_guide(
            models.schools, guide, models.Y, models.SIGMA,
            starts=0, num_steps=10, num_particles=8, final_draws=10, progress=False,
        )  # fmt: skip
        found.append(fit.losses)
    assert found[0] == found[1]


def test_solves_are_counted():
    flow = Flow(DiagonalNormal(2), [T.Continuous(FieldMLP(2, (6,))) for _ in range(2)])
    flow.recompute_activations(2)
    flow().log_prob(torch.randn(4, 2)).sum().backward()
    assert all(layer.evaluations.forward > 0 for layer in flow.transform.parts)


def test_copies_keep_the_setting_and_the_state_dict_does_not():
    flow = flows.realnvp(DIM, transforms=8, **SMALL)
    keys = flow.state_dict().keys()
    assert "recompute_segments" not in repr(flow)
    assert flow.recompute_activations() is flow
    assert flow.transform.recompute_segments == 3
    assert flow.state_dict().keys() == keys
    for other in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert "recompute_segments=3" in repr(other)
    assert flow.recompute_activations(0).transform.recompute_segments == 0
    assert "recompute_segments" not in repr(flow)


def test_every_chain_of_a_flow_is_set():
    flow = Flow(DiagonalNormal(DIM), nested()).recompute_activations()
    inner = [part.layer for part in flow.transform.parts[:3]]
    assert [chain.recompute_segments for chain in (flow.transform, *inner)] == [2, 2, 2, 2]
    Flow(DiagonalNormal(DIM), coupling()).recompute_activations()  # no chain, nothing to part


@pytest.mark.parametrize(
    ("segments", "kind", "message"),
    [
        (-1, ValueError, "recompute_activations got segments=-1. Pass a non-negative integer."),
        (1.5, TypeError, "recompute_activations got segments=1.5 of type float. Pass a"),
        (True, TypeError, "recompute_activations got segments=True of type bool. Pass a"),
    ],
)
def test_wrong_numbers_are_refused(segments, kind, message):
    with pytest.raises(kind, match=message):
        flows.realnvp(DIM).recompute_activations(segments)
    with pytest.raises(kind, match="Compose got recompute_segments="):
        T.Compose([T.ActNorm(DIM)], recompute_segments=segments)


def test_other_parameters_in_place_of_the_layers_own():
    flow = flows.realnvp(3, transforms=4, hidden_dims=(6,)).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.normal_(0, 0.5)
    x = torch.randn(5, 3, dtype=torch.float64)

    class Score(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.flow = flow

        def forward(self, x):
            return self.flow().log_prob(x).sum()

    score = Score()
    other = {n: (1.2 * p.detach()).requires_grad_() for n, p in score.named_parameters()}

    def gradients(segments):
        flow.recompute_activations(segments)
        out = torch.func.functional_call(score, other, (x,))
        wanted = list(other.values())
        return torch.autograd.grad(out, wanted, allow_unused=True, materialize_grads=True)

    torch.testing.assert_close(gradients(2), gradients(0), rtol=0, atol=0)


def test_buffers_moved_before_the_gradient_are_noticed():
    layers = [part for _ in range(3) for part in (T.affine_coupling(3, [4]), T.BatchNorm(3))]
    chain = T.Compose(layers, recompute_segments=3).eval()
    x = torch.randn(6, 3)
    ladj = chain.inverse_and_ladj(x)[1].sum()
    chain.train()
    chain.inverse_and_ladj(2 * x)
    with pytest.raises(RuntimeError, match="buffer was changed"):
        ladj.backward()
