"""The guide that follows its model's structure, and the layers that know its priors."""

from __future__ import annotations

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from guide_models import SIGMA, Y, schools
from pyro.infer import SVI, JitTrace_ELBO, Predictive, Trace_ELBO
from pyro.infer.reparam import NeuTraReparam
from torch.distributions import biject_to
from torch.func import jacrev

from pyro_nf import infer
from pyro_nf.infer._structure_frame import StructuredAffine, StructuredWhitening
from pyro_nf.infer._structure_prior import location_scale
from pyro_nf.infer.autoguide import AutoStructuredFlow
from pyro_nf.infer.autoguide._whitening import Whitening

ARGS = Y, SIGMA


def funnel():
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    with pyro.plate("rows", 9):
        pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))


def families():
    """Priors on the line, above 0, between 0 and 1 and on vectors, all with latent parameters."""
    a = pyro.sample("a", dist.LogNormal(0.0, 1.0))
    with pyro.plate("outer", 2, dim=-2):
        b = pyro.sample("b", dist.Gamma(1.0 + a, a))
        with pyro.plate("inner", 3, dim=-1):
            pyro.sample("c", dist.Beta(1.0 + b, a))
    d = pyro.sample("d", dist.MultivariateNormal(a * torch.ones(2), torch.eye(2) * a))
    p = pyro.sample("p", dist.Dirichlet(torch.stack((a, a + 1, d.sum().exp()))))
    pyro.sample("y", dist.Categorical(p), obs=torch.tensor(1))


def branching():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    loc = a * 2 if float(a.detach()) > 0 else a
    pyro.sample("b", dist.Normal(loc, 1.0))
    pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))


def globals_last():
    units = pyro.plate("units", 3)
    with units:
        theta = pyro.sample("theta", dist.Normal(0.0, 10.0))
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with units:
        pyro.sample("link", dist.Normal(theta - mu, 1.0), obs=torch.zeros(3))


MODELS = {
    "schools": (schools, ARGS),
    "funnel": (funnel, ()),
    "families": (families, ()),
    "globals last": (globals_last, ()),
}


def built(model, args, *, perturb=0.3, **options):
    """A guide in a frame of its own with perturbed parameters, in float64."""
    guide = AutoStructuredFlow(model, **options).setup(*args)
    guide.posterior.double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in guide.posterior.parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            frame = any(p is f for f in guide.posterior.whitening.parameters())
            p.add_(0 if frame else perturb * noise)
        dim = guide.latent_dim
        loc = torch.randn(dim, generator=generator, dtype=torch.float64) / 3
        tril = torch.randn(dim, dim, generator=generator, dtype=torch.float64).tril(-1) / 5
        guide.posterior.whitening.move(loc, tril + torch.eye(dim))
    return guide


def points(guide, count=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, guide.latent_dim, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("informed", [False, True], ids=["structured", "informed"])
@pytest.mark.parametrize(("model", "args"), MODELS.values(), ids=MODELS)
def test_log_determinant_round_trip_and_zeros_of_the_jacobian(model, args, informed):
    guide = built(model, args, model_informed=informed)
    transform = guide.get_transform()
    x = points(guide)
    y, ladj = transform.forward_and_ladj(x)
    jacobian = torch.stack([jacrev(lambda v: transform.forward_and_ladj(v)[0])(row) for row in x])
    torch.testing.assert_close(ladj, torch.linalg.slogdet(jacobian)[1], atol=1e-6, rtol=1e-6)
    back, back_ladj = transform.inverse_and_ladj(y)
    torch.testing.assert_close(back, x, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(back_ladj, -ladj, atol=1e-6, rtol=1e-6)
    reach = guide.structure.ancestors | torch.eye(guide.latent_dim, dtype=torch.bool)
    assert (jacobian[:, ~reach] == 0).all()
    if not (informed or model is globals_last):
        assert (jacobian.abs().amax(0)[reach] > 0).all()  # nothing that may be is barred


def test_rows_of_schools_know_of_the_globals_alone():
    guide = AutoStructuredFlow(schools).setup(*ARGS)
    reach = guide.structure.ancestors
    assert reach[2:, :2].all()
    assert not reach[2:, 2:].any()
    assert guide.structure.density == pytest.approx(17 / 45)


def test_frame_holds_the_curvature_of_the_model_whole():
    guide = AutoStructuredFlow(schools).setup(*ARGS)
    log_joint = infer._log_joint.LogJoint(schools, ARGS, {}, guide.latents)
    hessian = torch.autograd.functional.hessian(
        lambda z: -log_joint(z[None]).sum(), torch.zeros(guide.latent_dim)
    )
    covariance = torch.linalg.inv(hessian.double() + 5 * torch.eye(10, dtype=torch.float64))
    factor = torch.linalg.cholesky(covariance)
    frame = guide.posterior.whitening
    frame.move(torch.zeros(10), factor.float())
    torch.testing.assert_close(frame.scale, factor.float(), atol=1e-6, rtol=1e-5)


def test_frames_and_affine_maps():
    reach = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 0, 0]]) > 0
    affine = StructuredAffine(reach)
    with torch.no_grad():
        for p in affine.parameters():
            p.normal_()
    frame = StructuredWhitening(torch.ones(3), 2 * torch.ones(3), reach)
    frame.move(torch.arange(3.0), torch.tensor([[1.0, 0, 0], [2.0, 3.0, 0], [4.0, 5.0, 6.0]]))
    for layer in (affine, frame):
        x = torch.randn(5, 3)
        y, ladj = layer.forward_and_ladj(x)
        jacobian = jacrev(lambda v, t=layer: t.forward_and_ladj(v)[0])(x[0])
        assert jacobian[2, 1] == jacobian[0, 1] == 0 != jacobian[2, 0]
        torch.testing.assert_close(ladj[0], torch.linalg.slogdet(jacobian)[1])
        torch.testing.assert_close(layer.inverse_and_ladj(y)[0], x, atol=1e-5, rtol=1e-5)
    assert not any(p.grad_fn for p in frame.parameters())


def test_globals_last_take_a_diagonal_frame():
    guide = AutoStructuredFlow(globals_last).setup()
    assert isinstance(guide.posterior.whitening, Whitening)
    svi = SVI(globals_last, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    assert all(abs(svi.step()) < 1e6 for _ in range(2))


def test_width_follows_the_number_of_sets():
    def model():
        with pyro.plate("units", 30):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("y", dist.Normal(b, 1.0), obs=torch.zeros(30))

    guide = AutoStructuredFlow(model, hidden_dims=(8,)).setup()
    assert guide.posterior.flow.network.hidden_dims == (4 * 31,)
    assert guide.get_posterior().rsample((2,)).shape == (2, 60)


# Layers that know the model's priors.


@pytest.mark.parametrize(
    "prior",
    [
        dist.Normal(1.0, 2.0),
        dist.Laplace(1.0, 2.0),
        dist.LogNormal(1.0, 2.0),
        dist.HalfNormal(3.0),
        dist.HalfCauchy(3.0),
        dist.Exponential(2.0),
        dist.Weibull(torch.tensor(2.0), torch.tensor(3.0)),
        dist.Gamma(2.0, 3.0),
        dist.Chi2(torch.tensor(3.0)),
        dist.InverseGamma(torch.tensor(2.0), torch.tensor(3.0)),
        dist.Beta(2.0, 5.0),
        dist.MultivariateNormal(torch.ones(2), 2 * torch.eye(2)),
        dist.Normal(1.0, 2.0).expand([3]).to_event(1),
    ],
    ids=lambda d: type(d).__name__,
)
def test_location_and_scale_of_priors(prior):
    loc, scale = location_scale(prior)
    u = biject_to(prior.support).inv(prior.sample((100_000,)))
    assert loc.shape == scale.shape == u.shape[1:]
    torch.testing.assert_close(loc, u.mean(0), atol=0.03, rtol=0.03)
    width = 2**0.5 * scale if isinstance(prior, dist.Laplace) else scale  # a scale is no sd there
    torch.testing.assert_close(width, u.std(0), atol=0.03, rtol=0.03)


def test_priors_without_location_and_scale():
    assert location_scale(dist.Dirichlet(torch.ones(3))) is None
    assert location_scale(dist.Normal(0.0, 1.0).mask(False)) is None  # noqa: FBT003
    assert location_scale(dist.Normal(0.0, 1.0).mask(torch.ones(()) > 0)) is not None


def layer_of(guide):
    return guide.posterior.affine.parts[0]


def test_informed_are_those_whose_prior_moves():
    guide = AutoStructuredFlow(families, model_informed=True).setup()
    assert layer_of(guide).informed == {"b", "c", "d"}
    assert layer_of(AutoStructuredFlow(schools, model_informed=True).setup(*ARGS)).informed == {
        "theta"
    }


def test_informed_layer_is_the_model_itself_where_nothing_is_observed():
    guide = AutoStructuredFlow(funnel, model_informed=True).setup()
    posterior = guide.posterior
    with torch.no_grad():
        layer_of(guide).log_precision.fill_(-20.0)
        posterior.whitening.move(torch.zeros(10), torch.diag(torch.tensor([3.0] + [1.0] * 9)))
    z = guide.get_posterior().sample((7,))
    log_p = dist.Normal(0.0, 3.0).log_prob(z[:, 0])
    log_p = log_p + dist.Normal(0.0, (z[:, :1] / 2).exp()).log_prob(z[:, 1:]).sum(-1)
    torch.testing.assert_close(guide.get_posterior().log_prob(z), log_p, atol=1e-4, rtol=1e-4)


def test_model_that_cannot_be_mapped_runs_row_by_row():
    guide = AutoStructuredFlow(branching, model_informed=True).setup()
    layer = layer_of(guide)
    assert not layer._mapped
    assert layer.informed == {"b"}
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    y, ladj = layer.forward_and_ladj(x)
    assert ladj.shape == (2,)
    torch.testing.assert_close(layer.inverse_and_ladj(y)[0], x)


def test_layer_takes_any_batch():
    layer = layer_of(AutoStructuredFlow(schools, model_informed=True).setup(*ARGS))
    for batch in [(), (1,), (0,), (2, 3)]:
        y, ladj = layer.forward_and_ladj(torch.zeros(*batch, 10))
        assert (y.shape, ladj.shape) == ((*batch, 10), batch)


def test_informed_guide_serves_pyro():
    guide = AutoStructuredFlow(schools, model_informed=True).setup(*ARGS)
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True)
    svi = SVI(schools, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
    before = layer_of(guide).log_precision.detach().clone()
    assert all(svi.step(*ARGS) < 1e6 for _ in range(2))
    assert (layer_of(guide).log_precision[2:] != before[2:]).all()
    draws = Predictive(schools, guide=guide, num_samples=4)(*ARGS)
    assert draws["theta"].shape == (4, 8)


def test_informed_guide_runs_its_model_inside_of_the_model():
    """NeuTra maps the base inside of the model, at a site that lies in a plate of its own."""

    def model():
        with pyro.plate("units", 3):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            pyro.sample("b", dist.Normal(a, a.exp()))

    guide = AutoStructuredFlow(model, model_informed=True).setup()
    warped = NeuTraReparam(guide).reparam(model)
    trace = pyro.poutine.trace(warped).get_trace()
    trace.compute_log_prob()
    assert torch.isfinite(trace.log_prob_sum())
    assert trace.nodes["b"]["value"].shape == (3,)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_tracing_works_without_the_model_and_is_refused_with_it():
    adam, elbo = pyro.optim.Adam({"lr": 0.01}), JitTrace_ELBO(ignore_jit_warnings=True)
    guide = AutoStructuredFlow(schools, path_gradient=False).setup(*ARGS)
    svi = SVI(schools, guide, adam, elbo)
    assert svi.step(*ARGS) < 1e6
    guide = AutoStructuredFlow(schools, model_informed=True, path_gradient=False).setup(*ARGS)
    with pytest.raises(ValueError, match=r"torch\.jit cannot trace"):
        SVI(schools, guide, adam, JitTrace_ELBO(ignore_jit_warnings=True)).step(*ARGS)


def test_copies_and_state():
    guide = built(schools, ARGS, model_informed=True).float()
    fresh = AutoStructuredFlow(schools, model_informed=True).setup(*ARGS)
    fresh.load_state_dict(guide.state_dict())
    copied = copy.deepcopy(guide)
    x = points(guide).float()
    expected = guide.get_transform()(x)
    for other in (fresh, copied):
        torch.testing.assert_close(other.get_transform()(x), expected)
    names = [name for name, _ in guide.named_parameters()]
    assert len(names) == len(set(names))
    restored = pickle.loads(pickle.dumps(layer_of(guide)))
    with pytest.raises(RuntimeError, match="without its model"):
        restored.forward_and_ladj(x)


# Fits.


def correlation_of_theta(guide):
    theta = guide.get_posterior().sample((20_000,))[:, 2:]
    return float((torch.corrcoef(theta.T).sum() - 8) / 56)


@pytest.mark.slow
@pytest.mark.parametrize("informed", [False, True], ids=["structured", "informed"])
def test_schools_come_out_correlated(informed):
    guide = AutoStructuredFlow(schools, model_informed=informed)
    steps = 150 if informed else 500
    fit = infer.fit_guide(schools, guide, *ARGS, num_steps=steps, progress=False)
    assert correlation_of_theta(guide) == pytest.approx(0.345, abs=0.05)
    assert fit.elbo > -31.311 - 0.07


@pytest.mark.slow
def test_informed_guide_fits_a_centred_funnel():
    guide = AutoStructuredFlow(funnel, model_informed=True)
    fit = infer.fit_guide(funnel, guide, num_steps=200, progress=False)
    assert fit.elbo > -0.02
    assert fit.ess > 0.9
