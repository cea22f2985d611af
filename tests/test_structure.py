"""Mixtures of flows; mixtures and the prior over sequences inside of Pyro models."""

from __future__ import annotations

import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from case import perturb
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam
from torch import Tensor
from torch.distributions import constraints
from torch.func import functional_call

from pyro_nf import flows, infer
from pyro_nf.distributions import (
    AutoregressivePrior,
    DiagonalNormal,
    Flow,
    FlowMixture,
    MixtureOfFlows,
)
from pyro_nf.nn import FieldMLP
from pyro_nf.transforms import Continuous, TriangularAffine

torch.set_num_threads(1)

SMALL = {"transforms": 1, "hidden_dims": (8,), "activation": "tanh"}


def mixture(context_dims=(0, 0), **options) -> MixtureOfFlows:
    torch.manual_seed(0)
    parts = [flows.maf(2, context_dim=c, **SMALL) for c in context_dims]
    made = MixtureOfFlows(parts, **options)
    perturb(made, 0.4)
    return made


def prior(length=4, size=2, *, context_dim=0, name="maf") -> AutoregressivePrior:
    torch.manual_seed(0)
    flow = getattr(flows, name)(size, context_dim=5, **SMALL)
    made = AutoregressivePrior(flow, length, context_dim=context_dim)
    perturb(made, 0.4)
    return made


def test_mixture_is_the_weighted_sum():
    made = mixture()
    x = torch.randn(6, 2)
    weights = made.logits.softmax(0)
    each = torch.stack([flow().log_prob(x).exp() for flow in made.flows], -1)
    torch.testing.assert_close(made().log_prob(x), (each @ weights).log())
    shares = made().responsibilities(x)
    torch.testing.assert_close(shares.sum(0), torch.ones(6))
    torch.testing.assert_close(shares[0], weights[0] * each[:, 0] / (each @ weights))


def test_fresh_weights_are_equal():
    for weights, context in (("learned", None), ("fixed", None), ("context", torch.randn(3, 2))):
        made = MixtureOfFlows(
            [flows.maf(2), flows.maf(2)],
            weights=weights,
            context_dim=0 if context is None else 2,
        )
        torch.testing.assert_close(
            made.log_weights(context).exp(), torch.full_like(made.log_weights(context), 0.5)
        )


@pytest.mark.parametrize("context_dims", [(3, 3), (3, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("batch", [(), (1,), (5,), (4, 5)], ids=str)
def test_mixture_shapes_follow_the_context(context_dims, batch):
    made = mixture(context_dims, weights="context", context_dim=3)
    distribution = made(torch.randn(*batch, 3))
    assert distribution.batch_shape == batch
    assert distribution.event_shape == (2,)
    draws = distribution.sample((7,))
    assert draws.shape == (7, *batch, 2)
    assert distribution.log_prob(draws).shape == (7, *batch)
    wide = distribution.expand((6, *(batch or (1,))))
    assert wide.sample().shape == (6, *(batch or (1,)), 2)
    one = draws[(0,) * (len(batch) + 1)]
    torch.testing.assert_close(
        distribution.log_prob(draws)[(0,) * (len(batch) + 1)],
        distribution.log_prob(one.expand(*batch, 2))[(0,) * len(batch)],
    )


def test_mixture_draws_have_its_density():
    made = mixture()
    for flow, shift in zip(made.flows, (-6.0, 6.0), strict=True):
        flow.transform.parts[-1].shift.data.fill_(shift)
        flow.transform.parts[-1].log_scale.data.zero_()
    made.logits.data = torch.tensor([0.0, math.log(3.0)])
    draws = made().sample((4000,))
    assert abs((draws[:, 0] > 0).float().mean() - 0.75) < 0.03
    grid = torch.linspace(-14, 14, 141)
    points = torch.cartesian_prod(grid, grid)
    density = made().log_prob(points).exp().detach().view(141, 141)
    assert abs(torch.trapezoid(torch.trapezoid(density, grid), grid) - 1) < 1e-3


def test_expanded_draws_are_independent():
    draws = mixture()().expand((4,)).sample((3,))
    assert len(draws.reshape(-1, 2).unique(dim=0)) == 12


def test_mixture_has_no_rsample():
    distribution = mixture()()
    assert not distribution.has_rsample
    with pytest.raises(NotImplementedError, match="choice of a component has no gradient"):
        distribution.rsample()
    assert not distribution.sample().requires_grad


def test_mixture_separates_what_one_flow_cannot():
    """The data's entropy: three far normals of scale 0.1."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    member = torch.randint(0, 3, (3000,), generator=generator)
    x = centres[member] + 0.1 * torch.randn(3000, 2, generator=generator)
    made = MixtureOfFlows([flows.maf(2, **SMALL) for _ in range(3)])
    result = infer.fit_density(made, x, max_steps=100, learning_rate=0.01, progress=False)
    entropy = math.log(3) + 1 + math.log(2 * math.pi * 0.01)
    assert result.best_loss < entropy + 0.1
    torch.testing.assert_close(
        made.log_weights().exp(), torch.full((3,), 1 / 3), atol=0.05, rtol=0
    )


@pytest.mark.parametrize("kind", ["mixture", "sequence"])
def test_side_results_are_weighted(kind):
    def cnf(context_dim=0):
        layer = Continuous(FieldMLP(2, (4,), context_dim=context_dim), solver="rk4", steps=1)
        return Flow(DiagonalNormal(2), layer)

    torch.manual_seed(0)
    parts = cnf(), cnf(3)
    parts[0].aux_weights = parts[1].aux_weights = {"kinetic": 0.1}
    made = MixtureOfFlows(parts) if kind == "mixture" else AutoregressivePrior(parts[1], 4)
    perturb(made, 0.3)
    x, context = torch.randn(6, *made.event_shape), torch.randn(6, made.context_dim)
    with made.auxiliary(["kinetic"]) as results:
        made(*[context] if made.context_dim else []).log_prob(x)
    assert list(results) == ["kinetic"]
    assert results["kinetic"].shape == ((6,) if kind == "mixture" else (6, 4))
    # The components' own weights are not those of their mixture; a sequence has one flow alone.
    assert made.aux_weights == ({} if kind == "mixture" else {"kinetic": 0.1})
    seen = []
    infer.fit_density(
        made,
        x,
        context=context if made.context_dim else None,
        max_steps=1,
        progress=False,
        callback=lambda step, losses: seen.append(losses),
        aux_weights={"kinetic": 1.0} if kind == "mixture" else None,
    )
    assert seen[0]["kinetic"] > 0


def test_mixture_fits_with_a_context():
    generator = torch.Generator().manual_seed(0)
    context = torch.randn(2000, 1, generator=generator)
    right = torch.rand(2000, 1, generator=generator) < torch.sigmoid(4 * context)
    x = torch.where(right, 3.0, -3.0) + 0.3 * torch.randn(2000, 1, generator=generator)
    made = MixtureOfFlows(
        [flows.maf(1, transforms=1) for _ in range(2)], weights="context", context_dim=1
    )
    infer.fit_density(made, x, context=context, max_steps=100, learning_rate=0.01, progress=False)
    draws = made(torch.tensor([[-2.0], [2.0]])).sample((500,)).squeeze(-1)
    assert (draws[:, 0] < 0).float().mean() > 0.95
    assert (draws[:, 1] > 0).float().mean() > 0.95


def test_mixture_copies_pickles_and_restores():
    made, x = mixture(), torch.randn(5, 2)
    want = made().log_prob(x)
    other = MixtureOfFlows([flows.maf(2, **SMALL), flows.maf(2, **SMALL)])
    other.load_state_dict(made.state_dict())
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), other):
        torch.testing.assert_close(twin().log_prob(x), want)


def test_mixture_maps_and_takes_functional_parameters():
    made, x = mixture().double(), torch.randn(5, 2, dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(lambda row: made().log_prob(row))(x), made().log_prob(x))
    parameters = dict(made.named_parameters())

    def loss(values: dict[str, Tensor]) -> Tensor:
        score = lambda module: module().log_prob(x).sum()  # noqa: E731
        return functional_call(_Scored(made, score), {f"m.{k}": v for k, v in values.items()}, ())

    grads = torch.func.grad(loss)(parameters)
    made().log_prob(x).sum().backward()
    for name, parameter in made.named_parameters():
        if not name.endswith("center"):
            torch.testing.assert_close(grads[name], parameter.grad)


class _Scored(torch.nn.Module):
    def __init__(self, m, score):
        super().__init__()
        self.m, self.score = m, score

    def forward(self):
        return self.score(self.m)


@pytest.mark.parametrize("kind", ["mixture", "sequence"])
def test_priors_under_svi_and_nuts(kind):
    pyro.clear_param_store()
    torch.manual_seed(0)
    module = mixture() if kind == "mixture" else prior(3, 2)

    def model(y: Tensor) -> None:
        pyro.module("prior", module)
        z = pyro.sample("z", module())
        pyro.sample("y", dist.Normal(z, 0.5).to_event(z.ndim), obs=y)

    y = torch.zeros(module.event_shape)
    guide = AutoNormal(model)
    svi = SVI(model, guide, Adam({"lr": 0.02}), Trace_ELBO())
    losses = [svi.step(y) for _ in range(50)]
    assert sum(losses[-10:]) < sum(losses[:10])
    module.eval().requires_grad_(requires_grad=False)
    mcmc = MCMC(NUTS(model), num_samples=8, warmup_steps=8, disable_progbar=True)
    mcmc.run(y)
    assert mcmc.get_samples()["z"].shape == (8, *module.event_shape)


@pytest.mark.parametrize("kind", ["mixture", "sequence"])
def test_conditional_priors_in_plates(kind):
    pyro.clear_param_store()
    if kind == "mixture":
        module = mixture((3, 3))
    else:
        module = prior(3, 2, context_dim=3)
    context = torch.randn(6, 3)

    def model() -> Tensor:
        with pyro.plate("data", 6):
            return pyro.sample("z", module(context))

    def guide() -> None:
        with pyro.plate("data", 6):
            loc = pyro.param("loc", torch.zeros(6, *module.event_shape))
            pyro.sample("z", dist.Normal(loc, 1).to_event(len(module.event_shape)))

    assert model().shape == (6, *module.event_shape)
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True)
    assert math.isfinite(SVI(model, guide, Adam({"lr": 0.01}), elbo).step())


def test_bad_mixtures_are_refused():
    with pytest.raises(ValueError, match="no components"):
        MixtureOfFlows([])
    with pytest.raises(TypeError, match="component of type TriangularAffine"):
        MixtureOfFlows([TriangularAffine(2)])
    with pytest.raises(ValueError, match=r"event shapes \[\(2,\), \(3,\)\]"):
        MixtureOfFlows([flows.maf(2), flows.maf(3)])
    with pytest.raises(ValueError, match=r"context_dim \[1, 2\]"):
        MixtureOfFlows([flows.maf(2, context_dim=1), flows.maf(2, context_dim=2)])
    with pytest.raises(ValueError, match="weights='context'"):
        MixtureOfFlows([flows.maf(2)], weights="context")
    with pytest.raises(ValueError, match="'learned', 'fixed', 'context'"):
        MixtureOfFlows([flows.maf(2)], weights="equal")
    with pytest.raises(ValueError, match="got no context"):
        mixture((2, 2))()
    with pytest.raises(ValueError, match="without context"):
        mixture()(torch.zeros(2))
    with pytest.raises(ValueError, match="at least 2"):
        mixture().initialize(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"event shape \(2,\) got data of shape \(4, 3\)"):
        mixture().initialize(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="NaN or infinite"):
        mixture().initialize(torch.full((4, 2), torch.nan))


def test_mixture_of_other_supports_is_refused():
    angles = constraints.interval(-math.pi, math.pi)
    one, same = flows.circular_nsf(2), flows.maf(2, support=angles)
    columns = [constraints.interval(-math.pi, math.pi)] * 2
    MixtureOfFlows([one, same, flows.maf(2, support=columns)])
    with pytest.raises(ValueError, match=r"GreaterThan\(lower_bound=0.0\).*and .*Real"):
        MixtureOfFlows([flows.maf(2, support=constraints.positive), flows.maf(2)])
    with pytest.raises(ValueError, match=r"upper_bound=2.*same support"):
        MixtureOfFlows([same, flows.maf(2, support=constraints.interval(-math.pi, 2))])
    with pytest.raises(TypeError, match=r"type Flow. Pass a list"):
        MixtureOfFlows(flows.maf(2))


def test_weights_of_no_mixture_are_refused():
    d = flows.maf(2)()
    with pytest.raises(ValueError, match="no components"):
        FlowMixture([], torch.zeros(0))
    with pytest.raises(ValueError, match=r"2 components and log_weights of shape \(3,\)"):
        FlowMixture([d, d], torch.zeros(3).log_softmax(0))
    with pytest.raises(ValueError, match=r"sum to 2.*log_softmax"):
        FlowMixture([d, d], torch.zeros(2))
    assert repr(FlowMixture([d, d], torch.full((2,), 0.5).log(), validate_args=True)) == (
        "FlowMixture(batch_shape=(), event_shape=(2,), components=2)"
    )


@pytest.mark.parametrize("weights", ["learned", "context"])
def test_mixture_draws_nothing_and_of_no_contexts(weights):
    made = mixture((3, 0), weights=weights)
    assert made(torch.zeros(4, 3)).sample((0,)).shape == (0, 4, 2)
    none = made(torch.zeros(0, 3))
    assert none.sample((5,)).shape == (5, 0, 2)
    assert none.log_prob(torch.zeros(0, 2)).shape == (0,)


def test_mixture_keeps_a_common_support():
    made = MixtureOfFlows([flows.maf(2, support=constraints.positive) for _ in range(2)])
    x = torch.randn(500, 2).exp()
    infer.fit_density(made, x, max_steps=5, progress=False)
    assert (made().sample((50,)) > 0).all()
