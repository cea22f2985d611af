"""The base distributions as modules."""

from __future__ import annotations

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from scipy import stats

from pyro_nf.distributions.box import UniformBox
from pyro_nf.distributions.flow import Flow
from pyro_nf.distributions.mixture import GaussianMixture
from pyro_nf.distributions.normal import DiagonalNormal
from pyro_nf.distributions.student_t import StudentT
from pyro_nf.transforms import TriangularAffine

BASES = {
    "normal": lambda: DiagonalNormal(3),
    "normal-learned": lambda: DiagonalNormal(3, parameters="learned"),
    "normal-context": lambda: DiagonalNormal(3, context_dim=2),
    "student": lambda: StudentT(3),
    "student-fixed": lambda: StudentT(3, parameters="fixed"),
    "box": lambda: UniformBox(3),
    "mixture": lambda: GaussianMixture(3, components=4),
}
each_base = pytest.mark.parametrize("make", BASES.values(), ids=BASES.keys())


def perturb(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape))
    return module


def context_for(base, *batch):
    return torch.randn(*batch, base.context_dim).to(like(base)) if base.context_dim else None


def like(base):
    return next(iter([*base.parameters(), *base.buffers()]))


@each_base
def test_is_a_pyro_distribution_of_the_right_shape(make):
    base = perturb(make())
    d = base(context_for(base))
    assert isinstance(d, TorchDistributionMixin)
    assert (d.batch_shape, d.event_shape) == ((), (3,))
    assert d.sample((5,)).shape == (5, 3)
    assert d.log_prob(torch.rand(4, 5, 3)).shape == (4, 5)
    wide = d.expand((6, 2))
    assert wide.sample((5,)).shape == (5, 6, 2, 3)
    assert wide.to_event(1).log_prob(torch.rand(6, 2, 3)).shape == (6,)
    assert d.expand((2,)).mask(torch.tensor([True, False])).log_prob(torch.rand(3))[1] == 0
    if d.has_rsample:
        assert d.rsample((5,)).shape == (5, 3)


@each_base
def test_density_is_that_of_its_samples(make):
    base = perturb(make()).double()
    d = base(context_for(base))
    x = d.sample((4000,))
    # E_p[q / p] = 1 for any density q within the support of p: here a box amid the samples.
    low, high = x.quantile(torch.tensor([0.3, 0.7], dtype=x.dtype), 0)
    q = dist.Uniform(low, high, validate_args=False).to_event(1)
    ratio = (q.log_prob(x) - d.log_prob(x)).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(len(x))


@each_base
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_follows_the_module(make, dtype):
    base = make().to(dtype)
    d = base(context_for(base))
    x = d.sample((5,))
    assert x.dtype == d.log_prob(x).dtype == dtype


@each_base
def test_device_follows_the_module(make):
    base = make().to("meta")
    context = torch.empty(7, 2, device="meta") if base.context_dim else None
    assert base(context).log_prob(torch.empty(7, 3, device="meta")).device.type == "meta"


@each_base
def test_state_dict_restores_the_density(make):
    base = perturb(make())
    other = make()
    other.load_state_dict(base.state_dict())
    context, x = context_for(base, 5), torch.rand(5, 3)
    torch.testing.assert_close(other(context).log_prob(x), base(context).log_prob(x))
    torch.testing.assert_close(copy.deepcopy(base)(context).log_prob(x), base(context).log_prob(x))


@each_base
def test_every_parameter_gets_a_gradient(make):
    base = make()
    context = context_for(base, 9)
    if not list(base.parameters()):
        pytest.skip("nothing to learn")
    d = base(context)
    d.log_prob(torch.rand(9, 3)).sum().backward(retain_graph=True)
    for name, parameter in base.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
        parameter.grad = None
    if d.has_rsample:
        d.rsample((9,)).square().sum().backward()
        assert all(p.grad is not None for p in base.parameters())


@each_base
def test_serves_as_the_base_of_a_flow(make):
    base = perturb(make())
    flow = Flow(base, TriangularAffine(3))
    d = flow(context_for(base, 7))
    assert d.sample((11,)).shape == (11, *d.batch_shape, 3)
    assert d.log_prob(torch.rand(7, 3)).shape == (7,)
    assert flow.event_shape == (3,)


@each_base
def test_scores_an_empty_batch(make):
    base = make()
    context = context_for(base, 0)
    assert base(context).log_prob(torch.zeros(0, 3)).shape == (0,)
    assert Flow(base, TriangularAffine(3))(context).log_prob(torch.zeros(4, 0, 3)).shape == (4, 0)


def test_standard_normal():
    x = torch.randn(5, 3)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(-1)
    torch.testing.assert_close(DiagonalNormal(3)().log_prob(x), expected)
    assert list(DiagonalNormal(3).parameters()) == []
    assert set(DiagonalNormal(3).state_dict()) == {"loc", "scale"}


def test_normal_of_a_context_starts_standard_and_depends_on_each_row():
    base = DiagonalNormal(3, context_dim=2)
    context = torch.randn(4, 7, 2)
    d = base(context)
    assert d.batch_shape == (4, 7)
    torch.testing.assert_close(
        d.log_prob(torch.ones(3)), DiagonalNormal(3)().log_prob(torch.ones(4, 7, 3))
    )
    locs = perturb(base)(context).mean
    assert locs.shape == (4, 7, 3)
    assert locs.flatten(0, 1).unique(dim=0).shape[0] == 28


def test_log_scale_of_a_context_is_softly_bounded():
    base = perturb(DiagonalNormal(1, context_dim=1))
    d = base(torch.tensor([[-1e6], [1e6]]))
    assert d.stddev.log().abs().max() <= 5.0
    assert d.stddev.isfinite().all()


@pytest.mark.parametrize("context", [None, torch.zeros(5, 3), torch.zeros(())])
def test_normal_refuses_a_wrong_context(context):
    with pytest.raises(ValueError, match=r"Pass a context of shape \(\*batch, 2\)"):
        DiagonalNormal(3, context_dim=2)(context)


def test_student_t_agrees_with_scipy():
    base = StudentT(2, df=[2.5, 7.0], parameters="fixed").double()
    x = 3 * torch.randn(50, 2, dtype=torch.float64)
    expected = stats.t.logpdf(x.numpy(), df=[2.5, 7.0]).sum(-1)
    torch.testing.assert_close(base().log_prob(x), torch.as_tensor(expected))


@pytest.mark.parametrize("df", [1.001, 5.0, 300.0, [1.5, 4.0, 50.0]])
def test_learned_degrees_of_freedom_start_where_told(df):
    base = StudentT(3, df=df)
    torch.testing.assert_close(base.df, torch.as_tensor(df).expand(3), rtol=1e-5, atol=1e-5)
    assert (StudentT(3, df=df, min_df=0.5).df > 0.5).all()


def test_learned_degrees_of_freedom_stay_above_the_bound_and_find_the_tails():
    base = StudentT(1, df=20.0)
    with torch.no_grad():
        base.raw_df.fill_(-100.0)
    assert base.df == 1.0
    base = StudentT(1, df=20.0)
    x = StudentT(1, df=2.0, parameters="fixed")().sample((2000,))
    optimizer = torch.optim.Adam(base.parameters(), lr=0.2)
    for _ in range(150):
        optimizer.zero_grad()
        (-base().log_prob(x).mean()).backward()
        optimizer.step()
    assert 1.6 < base.df < 2.5


def test_student_t_draws_carry_the_gradient_of_the_degrees_of_freedom():
    base = StudentT(2, df=3.0)
    base().rsample((100,)).square().mean().backward()
    assert base.raw_df.grad.abs().min() > 0


def test_box_is_uniform_inside_and_impossible_outside():
    box = UniformBox(2, low=[-1.0, 0.0], high=[1.0, 4.0])
    x = torch.tensor([[0.0, 1.0], [0.0, 5.0], [-2.0, 1.0]])
    expected = torch.tensor([-math.log(8), -math.inf, -math.inf])
    torch.testing.assert_close(box().log_prob(x), expected)


@pytest.mark.parametrize("validation", [True, False])
def test_flow_on_a_box_scores_minus_infinity_outside_whatever_the_validation(validation):
    flow = Flow(UniformBox(2), TriangularAffine(2))
    with pyro.validation_enabled(validation):
        log_prob = flow().log_prob(torch.tensor([[0.5, 0.5], [7.0, 0.5]], requires_grad=True))
        assert log_prob[0] == 0
        assert log_prob[1] == -math.inf
        gradient = torch.autograd.grad(log_prob[0], list(flow.parameters()), allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in gradient)


def test_mixture_is_the_weighted_sum():
    base = perturb(GaussianMixture(3, components=4)).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    normals = torch.distributions.Normal(base.locs, base.log_scales.exp())
    each = normals.log_prob(x.unsqueeze(-2)).sum(-1).exp()  # (6, 4)
    expected = (each * base.logits.softmax(0)).sum(-1).log()
    torch.testing.assert_close(base().log_prob(x), expected)


def test_mixture_starts_from_its_own_seed():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = GaussianMixture(2, components=5, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(GaussianMixture(2, components=5, seed=3).locs, first.locs)
    assert not torch.equal(GaussianMixture(2, components=5, seed=4).locs, first.locs)
    torch.testing.assert_close(
        GaussianMixture(2, components=5, seed=3, spread=2.0).locs, 2 * first.locs
    )


def test_mixture_draws_without_gradients():
    d = GaussianMixture(2)()
    assert not d.has_rsample
    assert not Flow(GaussianMixture(2), TriangularAffine(2))().sample().requires_grad


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiagonalNormal(0), "DiagonalNormal got input_dim=0"),
        (lambda: DiagonalNormal(2, parameters="free"), "Pass one of 'fixed', 'learned'"),
        (lambda: DiagonalNormal(2, context_dim=-1), "context_dim=-1"),
        (lambda: StudentT(2, df=0.5), "above 1"),
        (lambda: StudentT(2, df=-1.0, parameters="fixed"), "above 0"),
        (lambda: StudentT(2, df=[1.0, 2.0, 3.0]), r"df of shape \(3,\)"),
        (lambda: UniformBox(2, low=1.0, high=1.0), "Pass low < high"),
        (lambda: UniformBox(2, high=math.inf), "Pass finite numbers"),
        (lambda: GaussianMixture(2, components=0), "components=0"),
        (lambda: GaussianMixture(2, spread=0.0), "spread=0.0"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", [DiagonalNormal, StudentT])
@pytest.mark.parametrize("parameters", ["fixed", "learned"])
def test_repr_shows_what_the_constructor_takes(kind, parameters):
    shown = f"{kind.__name__}(input_dim=2, parameters='{parameters}')"
    assert repr(kind(2, parameters=parameters)) == shown
