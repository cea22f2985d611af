"""Simulation-free training: what it learns, what it leaves alone, and what it refuses."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from gaussian_flow import same, weights
from torch import Tensor

from benchmarks.toy_densities import TOYS
from pyro_nf import flows
from pyro_nf.distributions import DiagonalNormal, Flow, MixtureOfFlows
from pyro_nf.infer import fit_density, fit_flow_matching
from pyro_nf.infer._matching import GROUP, nearest
from pyro_nf.infer._sides import Sides
from pyro_nf.infer.checkpoint import load_checkpoint
from pyro_nf.nn import FieldMLP
from pyro_nf.transforms import ActNorm, BatchNorm, Compose, Continuous, LULinear, TriangularAffine

torch.set_num_threads(1)


def cnf(size: int = 2, *, context_dim: int = 0, **options) -> Flow:
    field = FieldMLP(size, (32, 32), context_dim=context_dim)
    return Flow(DiagonalNormal(size), [Continuous(field, rtol=1e-3, **options), ActNorm(size)])


def slanted(rows: int = 2000) -> Tensor:
    noise = torch.randn(rows, 2, generator=torch.Generator().manual_seed(3))
    return noise @ torch.tensor([[2.0, 1.0], [0.0, 0.5]]) + torch.tensor([5.0, -3.0])


def truth() -> dist.MultivariateNormal:
    slant = torch.tensor([[2.0, 1.0], [0.0, 0.5]])
    return dist.MultivariateNormal(torch.tensor([5.0, -3.0]), slant.T @ slant)


def nats(flow: Flow, x: Tensor, context: Tensor | None = None) -> float:
    with torch.no_grad():
        return -float(flow.eval()(context).log_prob(x).mean())


# What it learns


@pytest.mark.parametrize("coupling", ["optimal_transport", "independent"])
def test_bends_moons(coupling):
    torch.manual_seed(0)
    x = TOYS["moons"].sample(4000, torch.Generator().manual_seed(0)).float()
    flow = cnf()
    result = fit_flow_matching(
        flow, x, coupling=coupling, max_steps=400, batch_size=256, learning_rate=2e-2
    )
    gaussian = dist.MultivariateNormal(x.mean(0), x.T.cov()).log_prob(x).mean()
    assert nats(flow, x) < -float(gaussian) - 0.15
    assert result.unit == "squared velocity per datum"
    assert result.evaluations == []
    assert "evaluations" not in repr(result)


def between(**options) -> Flow:
    """A field with layers that scale and slant on both sides of it."""
    base, data = TriangularAffine(2), LULinear(2)
    with torch.no_grad():
        for layer in (base, data):
            for parameter in layer.parameters():
                parameter.add_(0.3)
    layer = Continuous(FieldMLP(2, (32, 32)), rtol=1e-3, **options)
    return Flow(DiagonalNormal(2), [base, layer, Compose([data, ActNorm(2)])])


def test_ends_lie_on_either_side_of_the_field():
    x, flow = slanted(10), between()
    flow.initialize(x)
    torch.manual_seed(0)
    start, end = Sides("", flow).ends(x, None)
    base, _, data = flow.transform.parts
    torch.manual_seed(0)
    assert torch.equal(start, base(torch.randn(10, 2)))
    assert torch.equal(end, data.inv(x))
    assert not end.requires_grad


def test_layers_on_either_side_take_part():
    torch.manual_seed(0)
    x, flow = slanted(4000), between(end_time=3.0)
    fit_flow_matching(flow, x, max_steps=250)
    assert nats(flow, x) == pytest.approx(-float(truth().log_prob(x).mean()), abs=0.03)


def test_learns_from_a_context():
    torch.manual_seed(0)
    context = 2 * torch.rand(4000, 1) - 1
    scale = 0.2 + 0.3 * context.abs()
    y = torch.cat([context, -context], 1) * 2 + scale * torch.randn(4000, 2)
    flow = cnf(context_dim=1)
    fit_flow_matching(flow, y, context=context, max_steps=300, learning_rate=2e-2)
    source = dist.Normal(torch.cat([context, -context], 1) * 2, scale).to_event(1)
    assert nats(flow, y, context) == pytest.approx(-float(source.log_prob(y).mean()), abs=0.15)


def test_a_fit_by_likelihood_goes_on():
    torch.manual_seed(0)
    x, flow = slanted(500), cnf()
    fit_flow_matching(flow, x, max_steps=100)
    before = nats(flow, x)
    result = fit_density(flow.train(), x, max_steps=10, learning_rate=1e-3, validation=x)
    assert result.best_loss <= before + 1e-3
    assert len(result.evaluations) == 10


# Coupling


def test_optimal_transport_lowers_the_cost_by_a_permutation():
    torch.manual_seed(0)
    start, end = torch.randn(2 * GROUP + 10, 3), torch.randn(2 * GROUP + 10, 3) + 1
    paired = nearest(start, end)
    for rows in torch.arange(len(start)).split(GROUP):
        one, other = start[rows].sort(0).values, paired[rows].sort(0).values
        assert torch.equal(one, other)
        before, after = ((end[rows] - s[rows]).square().sum() for s in (start, paired))
        assert after < 0.8 * before
    line = torch.randn(20, 1)
    assert torch.equal(nearest(line, torch.arange(20.0)[:, None]), line.sort(0).values)


def test_pairing_leaves_what_is_not_finite_to_the_step():
    start = torch.randn(4, 2)
    assert torch.equal(nearest(start, torch.full((4, 2), math.nan)), start)


def test_coupling_follows_the_context():
    x, context = torch.randn(50, 2), torch.randn(50, 1)
    with pytest.raises(ValueError, match="context_dim=1. Pairing across rows would bias"):
        fit_flow_matching(cnf(context_dim=1), x, context=context, coupling="optimal_transport")
    with pytest.raises(ValueError, match="coupling='ot'. Pass one of 'optimal_transport'"):
        fit_flow_matching(cnf(), x, coupling="ot")


# What it leaves alone


def test_other_layers_stay_as_they_were_initialised():
    torch.manual_seed(0)
    x = slanted(400)
    base = DiagonalNormal(2, parameters="learned")
    parts = [LULinear(2), Continuous(FieldMLP(2, (8,))), BatchNorm(2), LULinear(2), ActNorm(2)]
    flow = Flow(base, parts)
    flow.initialize(x)
    before = weights(flow)
    fit_flow_matching(flow, x, max_steps=5, validation=None)
    changed = [
        name for name, value in weights(flow).items() if not torch.equal(value, before[name])
    ]
    assert changed
    assert all(name.startswith("transform.parts.1.field.") for name in changed)
    assert all(parameter.grad is None for parameter in flow.parameters())
    assert all(part.training for part in flow.modules())


def test_measuring_draws_nothing_from_the_caller():
    x, losses = slanted(300), []
    for every in (1, 100):
        pyro.set_rng_seed(0)
        flow = cnf()
        result = fit_flow_matching(flow, x, max_steps=6, validate_every=every, validation=x[:50])
        losses.append(result.train_losses)
    assert losses[0] == losses[1]


def test_the_same_weights_have_the_same_held_out_loss():
    result = fit_flow_matching(
        cnf(),
        slanted(300),
        max_steps=4,
        validate_every=1,
        optimizer=lambda p: torch.optim.SGD(p, 0),
    )
    assert len({loss for _, loss in result.validation_losses}) == 1
    assert len(set(result.train_losses)) == 4


# Checkpoints


@pytest.mark.parametrize("context_dim", [0, 1])
def test_resumes_to_the_bit(tmp_path, context_dim):
    x, path = slanted(300), tmp_path / "fit.pt"
    context = torch.randn(300, 1, generator=torch.Generator().manual_seed(0))
    options = {"max_steps": 20, "validate_every": 7, "batch_size": 70, "checkpoint_every": 6}
    options["context"] = context if context_dim else None

    def make():
        torch.manual_seed(5)
        return cnf(context_dim=context_dim)

    def interrupt(step, losses):
        if step == 9:
            raise KeyboardInterrupt

    straight = make()
    expected = fit_flow_matching(straight, x, **options)
    part = fit_flow_matching(make(), x, **options, checkpoint=path, callback=interrupt)
    assert (part.stopped, part.steps) == ("interrupted", 9)
    resumed = make()
    pyro.set_rng_seed(77)
    result = fit_flow_matching(resumed, x, **options, checkpoint=path, resume=True)
    assert result.train_losses == expected.train_losses
    assert result.validation_losses == expected.validation_losses
    assert same(weights(straight), weights(resumed))


def test_checkpoints_belong_to_their_fit(tmp_path):
    x, path = slanted(100), tmp_path / "fit.pt"
    fit_flow_matching(cnf(), x, max_steps=2, checkpoint=path)
    assert load_checkpoint(path, "fit_flow_matching")["history"]["evaluations"].numel() == 0
    with pytest.raises(ValueError, match="no checkpoint of a fit in format 'pyro_nf.fit_density/"):
        fit_density(cnf(), x, max_steps=2, checkpoint=path, resume=True)
    options = {"max_steps": 2, "checkpoint": path, "resume": True}
    with pytest.raises(ValueError, match="fit_flow_matching cannot resume: .*coupling=optimal"):
        fit_flow_matching(cnf(), x, coupling="independent", **options)


# Errors


def test_flows_that_do_not_fit_are_refused():
    x = torch.randn(20, 2)
    with pytest.raises(TypeError, match="fit_flow_matching got a MixtureOfFlows"):
        fit_flow_matching(MixtureOfFlows([cnf(), cnf()]), x)
    with pytest.raises(TypeError, match="fit_flow_matching got a layer"):
        fit_flow_matching(ActNorm(2), x)
    with pytest.raises(ValueError, match="with no continuous layers .its chain: .*fit_density"):
        fit_flow_matching(flows.maf(2), x)
    layer, other = (Continuous(FieldMLP(2, (4,))) for _ in range(2))
    for parts in ([layer, other], [layer, layer]):
        with pytest.raises(ValueError, match="with 2 continuous layers .*exactly one"):
            fit_flow_matching(Flow(DiagonalNormal(2), parts), x)
    with pytest.raises(ValueError, match="part of another layer .*its chain: Inverse, ActNorm"):
        fit_flow_matching(Flow(DiagonalNormal(2), [layer.inv, ActNorm(2)]), x)
    with pytest.raises(ValueError, match="learned end time.*learn_end_time=False"):
        fit_flow_matching(cnf(learn_end_time=True), x)
    frozen = cnf()
    Sides("", frozen).layer.requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match="got a FieldMLP without trainable parameters"):
        fit_flow_matching(frozen, x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, "max_steps=0"),
        ({"schedule": "linear"}, "schedule='linear'"),
        ({"batch_size": 90}, "batch_size=90 and 18 rows"),
        ({"validation": 1.5}, "validation=1.5"),
        ({"context": torch.zeros(20, 1)}, "context for a flow built without one"),
        ({"resume": True}, "resume=True without a checkpoint"),
        ({"data": torch.full((20, 2), math.nan)}, "data with a value that is not finite"),
        ({"data": torch.zeros(20, 3)}, r"data of shape \(20, 3\)"),
    ],
)
def test_messages_name_their_function(options, message):
    data = options.pop("data", torch.randn(20, 2))
    with pytest.raises(ValueError, match=f"^fit_flow_matching got .*{message}"):
        fit_flow_matching(cnf(), data, **options)


def test_steps_without_a_finite_loss_are_skipped():
    flow, x = cnf(), slanted(100)

    def break_once(step, losses):
        with torch.no_grad():
            flow.transform.parts[1].shift.fill_(math.nan if step == 2 else 0.0)

    with pytest.warns(UserWarning, match="fit_flow_matching skipped step 3"):
        result = fit_flow_matching(flow, x, max_steps=5, validation=None, callback=break_once)
    assert [math.isfinite(loss) for loss in result.train_losses] == [True, True, False, True, True]
