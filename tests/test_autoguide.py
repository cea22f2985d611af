"""What a flow guide must do beside being fitted: Pyro's tools, saving, copying, dtypes."""

from __future__ import annotations

import copy
import io
import pickle

import guide_models as models
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    JitTrace_ELBO,
    Predictive,
    Trace_ELBO,
    TraceEnum_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoGuideList, AutoNormal, init_to_value
from torch import nn

from pyro_nf import flows, infer
from pyro_nf import transforms as T
from pyro_nf.infer.autoguide import AutoFlow, AutoIAF, AutoNSF

ARGS = models.Y, models.SIGMA


@pytest.fixture(autouse=True)
def _fresh():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


FLOWS = {
    "default": {},
    "name": {"flow": "maf"},
    "factory": {"flow": lambda d: flows.nsf(d, transforms=1, hidden_dims=(8,))},
    "layers": {"flow": lambda d: [T.Rotation(d), T.Permutation(list(reversed(range(d))))]},
    "transform": {"flow": T.Householder(10)},
    "lowrank": {"affine": "lowrank"},
    "diag": {"affine": "diag"},
    "no affine": {"affine": None},
    "student": {"tails": "student"},
}


@pytest.mark.parametrize("options", FLOWS.values(), ids=FLOWS)
def test_options_give_a_guide_that_trains(options):
    guide = AutoFlow(models.schools, **options).setup(*ARGS)
    assert list(guide.parameters())
    svi = SVI(models.schools, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    losses = [svi.step(*ARGS) for _ in range(3)]
    assert all(torch.isfinite(torch.tensor(losses)))
    with torch.no_grad():
        for p in guide.posterior.affine.parameters() if guide.posterior.affine else ():
            p.add_(0.1)
    q = guide.get_posterior()
    z = q.sample((7,))
    x = guide.get_transform().inv(z)
    expected = guide.get_base_dist().log_prob(x) - guide.get_transform().log_abs_det_jacobian(x, z)
    torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [AutoIAF, AutoNSF])
def test_named_guides(kind):
    assert kind(models.schools)(*ARGS)["theta"].shape == (8,)


def test_first_draws_lie_where_they_are_put():
    start = {"mu": torch.tensor(2.0), "tau": torch.tensor(3.0), "theta": torch.full((8,), 7.0)}
    guide = AutoFlow(
        models.schools, init_loc_fn=init_to_value(values=start), init_scale=0.01
    ).setup(*ARGS)
    median = guide.median(*ARGS)
    assert float(median["mu"]) == pytest.approx(2.0, abs=0.01)
    assert float(median["tau"]) == pytest.approx(3.0, abs=0.05)
    low, high = guide.quantiles([0.16, 0.84], *ARGS)["theta"][:, 0].tolist()
    assert high - low == pytest.approx(0.02, abs=0.002)


def test_parameters_are_there_after_set_up():
    guide = AutoFlow(models.schools)
    with pytest.raises(RuntimeError, match="setup"):
        guide.get_posterior()
    with pytest.raises(RuntimeError, match="setup"):
        guide.load_state_dict({})
    assert guide.setup(*ARGS) is guide
    assert len(list(guide.parameters())) > 50


def _trained():
    guide = AutoFlow(models.schools).setup(*ARGS)
    with torch.no_grad():
        for p in guide.parameters():
            p.add_(0.05 * torch.rand_like(p))
    return guide


def test_state_dict_into_a_fresh_guide_under_another_seed():
    guide = _trained()
    buffer = io.BytesIO()
    torch.save(guide.state_dict(), buffer)
    buffer.seek(0)
    pyro.set_rng_seed(7)
    fresh = AutoFlow(models.schools).setup(*ARGS)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    z = torch.randn(5, 10)
    torch.testing.assert_close(
        fresh.get_posterior().log_prob(z), guide.get_posterior().log_prob(z)
    )


def test_the_frame_survives_pyros_parameter_store():
    """The store drops buffers; a guide restored from it must be the guide that was saved."""
    guide = AutoFlow(models.schools, name="kept").setup(*ARGS)
    guide.posterior.whitening.move(torch.ones(10), 3 * torch.eye(10))
    guide(*ARGS)  # declares the parameters
    state = pyro.get_param_store().get_state()
    pyro.clear_param_store()
    pyro.get_param_store().set_state(state)
    restored = AutoFlow(models.schools, name="kept")
    restored(*ARGS)
    z = torch.randn(5, 10)
    expected = guide.get_posterior().log_prob(z)
    torch.testing.assert_close(restored.get_posterior().log_prob(z), expected)


def test_two_guides_share_no_parameters():
    first, second = AutoFlow(models.schools), AutoFlow(models.schools)
    first(*ARGS)
    names = set(pyro.get_param_store().keys())
    second(*ARGS)
    assert len(set(pyro.get_param_store().keys())) == 2 * len(names)


def test_copies():
    guide = _trained()
    guide.get_posterior().rsample((3,))
    clone = copy.deepcopy(guide)
    unpickled = pickle.loads(pickle.dumps(_trained()))
    z = torch.randn(5, 10)
    torch.testing.assert_close(
        clone.get_posterior().log_prob(z), guide.get_posterior().log_prob(z)
    )
    assert guide.model is not None  # copying leaves the original whole
    assert clone(*ARGS).keys() == guide(*ARGS).keys()
    assert unpickled.get_posterior().sample().shape == (10,)
    with torch.no_grad():
        next(clone.parameters()).add_(1.0)
    assert not torch.equal(next(clone.parameters()), next(guide.parameters()))


def test_float64():
    y = models.Y.double()
    guide = AutoFlow(models.conjugate).setup(y)
    assert guide.get_posterior().sample().dtype == torch.float64
    assert guide(y)["mean"].dtype == torch.float64


def test_priors_that_cannot_be_drawn_from():
    def model():
        pyro.sample("flat", dist.ImproperUniform(dist.constraints.positive, (), (2,)))
        pyro.factor("data", torch.zeros(()))

    assert AutoFlow(model)()["flat"].shape == (2,)
    assert AutoFlow(models.improper)(models.Y)["scale"] > 0


def test_vectorised_particles():
    guide = AutoFlow(models.schools).setup(*ARGS)
    one = Trace_ELBO(num_particles=100)
    many = Trace_ELBO(num_particles=500, vectorize_particles=True, max_plate_nesting=1)
    losses = [elbo.loss(models.schools, guide, *ARGS) for elbo in (one, many)]
    assert losses[0] == pytest.approx(losses[1], rel=0.03)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_predictive_and_jit():
    guide = AutoFlow(models.schools).setup(*ARGS)
    predictive = Predictive(models.schools, guide=guide, num_samples=3, parallel=True)
    assert predictive(*ARGS)["theta"].shape == (3, 8)
    elbo = JitTrace_ELBO(ignore_jit_warnings=True)
    svi = SVI(models.schools, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
    first = [p.detach().clone() for p in guide.parameters()]
    svi.step(*ARGS)
    assert any(not torch.equal(a, b) for a, b in zip(first, guide.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_jit_refuses_path_gradients():
    guide = AutoFlow(models.schools, path_gradient=True).setup(*ARGS)
    elbo = JitTrace_ELBO(ignore_jit_warnings=True)
    with pytest.raises(ValueError, match="path_gradient=False"):
        elbo.differentiable_loss(models.schools, guide, *ARGS)


def test_guide_lists():
    guide = AutoGuideList(models.schools)
    guide.append(AutoFlow(poutine.block(models.schools, hide=["mu"])))
    guide.append(AutoNormal(poutine.block(models.schools, expose=["mu"])))
    svi = SVI(models.schools, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    assert svi.step(*ARGS) == pytest.approx(60, abs=30)
    assert guide(*ARGS).keys() == {"mu", "tau", "theta"}


def test_two_flows_in_a_list():
    guide = AutoGuideList(models.schools)
    guide.append(AutoFlow(poutine.block(models.schools, hide=["mu"])))
    guide.append(AutoFlow(poutine.block(models.schools, expose=["mu"])))
    assert guide(*ARGS).keys() == {"mu", "tau", "theta"}


def test_discrete_sites_are_enumerated():
    y = torch.tensor([-2.0, 1.5, 2.5])
    guide = AutoFlow(poutine.block(models.mixture, hide=["k"])).setup(y)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    svi = SVI(config_enumerate(models.mixture), guide, pyro.optim.Adam({"lr": 0.01}), elbo)
    assert svi.step(y) < 40


def test_a_flow_serves_as_prior_beside_a_flow_guide():
    prior = flows.realnvp(2, transforms=2, hidden_dims=(8,))

    def model():
        pyro.module("prior", prior)
        z = pyro.sample("z", prior())
        pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=torch.tensor(3.0))

    before = [p.detach().clone() for p in prior.parameters()]
    fit = infer.fit_guide(model, AutoFlow(model), num_steps=30, starts=1, progress=False)
    assert fit.particles in ("plate", "vmap")
    assert any(not torch.equal(a, b) for a, b in zip(before, prior.parameters(), strict=True))


def test_wrong_options():
    with pytest.raises(ValueError, match="affine="):
        AutoFlow(models.schools, affine="half")
    with pytest.raises(ValueError, match="init_scale"):
        AutoFlow(models.schools, init_scale=0.0)
    with pytest.raises(ValueError, match="flow='no_such_flow'"):
        AutoFlow(models.schools, flow="no_such_flow").setup(*ARGS)
    with pytest.raises(ValueError, match="input_dim=3"):
        AutoFlow(models.schools, flow=T.Rotation(3)).setup(*ARGS)
    with pytest.raises(TypeError, match="flow of type int"):
        AutoFlow(models.schools, flow=3).setup(*ARGS)
    with pytest.raises(ValueError, match="tails='fat'"):
        AutoFlow(models.schools, tails="fat").setup(*ARGS)
    with pytest.raises(TypeError, match="model of type"):
        AutoFlow(nn.Parameter(torch.zeros(1)))
