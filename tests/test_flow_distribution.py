"""A flow as a distribution: shapes, contexts, bad input, side results, initialisation."""

from __future__ import annotations

import inspect
import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from cases import VECTOR_FLOWS, perturb
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_nf import flows
from pyro_nf.bijections import Affine, Rotation
from pyro_nf.distributions import DiagonalNormal, Flow, FlowDistribution
from pyro_nf.transforms import (
    ActNorm,
    Autoregressive,
    Compose,
    Coupling,
    Elementwise,
    LULinear,
    ToSupport,
)

NAMES = pytest.mark.parametrize("name", ["nice", "realnvp", "maf", "iaf", "nsf"])
EVERY = pytest.mark.parametrize("name", VECTOR_FLOWS)


@EVERY
def test_shapes_without_context(name: str) -> None:
    flow = getattr(flows, name)(3)
    d = flow()
    assert isinstance(d, FlowDistribution)
    assert isinstance(d, dist.TransformedDistribution)
    assert (d.batch_shape, d.event_shape) == ((), (3,))
    assert (flow.event_shape, flow.input_dim, flow.context_dim) == ((3,), 3, 0)
    assert d.sample((4, 2)).shape == (4, 2, 3)
    assert d.log_prob(torch.zeros(4, 2, 3)).shape == (4, 2)
    assert d.expand((6,)).sample((2,)).shape == (2, 6, 3)
    assert d.expand((6,)).log_prob(torch.zeros(6, 3)).shape == (6,)


@EVERY
def test_shapes_with_context(name: str) -> None:
    flow = getattr(flows, name)(3, context_dim=2)
    d = flow(torch.randn(7, 2))
    assert (d.batch_shape, d.event_shape) == ((7,), (3,))
    draws = d.sample((11,))
    assert draws.shape == (11, 7, 3)
    assert len(draws.reshape(-1, 3).unique(dim=0)) == 77  # independent over the contexts
    assert d.log_prob(torch.zeros(3)).shape == (7,)
    assert d.expand((4, 7)).sample().shape == (4, 7, 3)
    assert flow(torch.randn(2)).batch_shape == ()
    assert flow(torch.randn(5, 1, 2)).log_prob(torch.zeros(7, 3)).shape == (5, 7)


def test_context_errors() -> None:
    with pytest.raises(ValueError, match=r"context_dim=2 and got no context.*flow\(context\)"):
        flows.maf(3, context_dim=2)()
    with pytest.raises(ValueError, match="built without context"):
        flows.maf(3)(torch.zeros(2))
    with pytest.raises(ValueError, match=r"expected shape \(\*batch, 2\)"):
        flows.maf(3, context_dim=2)(torch.zeros(5, 4))
    with pytest.raises(ValueError, match="do not broadcast"):
        flows.maf(3, context_dim=2)(torch.zeros(5, 2)).log_prob(torch.zeros(4, 3))


@EVERY
def test_bad_sizes_and_options(name: str) -> None:
    make = getattr(flows, name)
    with pytest.raises(ValueError, match="got input_dim=0"):
        make(0)
    with pytest.raises(ValueError, match="got transforms=-1"):
        make(3, transforms=-1)
    with pytest.raises(TypeError, match="got input_dim=2.5"):
        make(2.5)
    if "activation" in inspect.signature(make).parameters:
        with pytest.raises(ValueError, match="Pass one of"):
            make(3, context_dim=2, activation="rleu")
    with pytest.raises(ValueError, match=r"got a value of shape \(5, 4\)"):
        make(3)().log_prob(torch.zeros(5, 4))
    with pytest.raises(ValueError, match="got context_dim=-1"):
        make(3, context_dim=-1)


def test_unknown_wiring_and_mask() -> None:
    with pytest.raises(ValueError, match="Pass one of 'autoregressive', 'coupling'"):
        flows.nsf(2, wiring="autoregresive")
    with pytest.raises(ValueError, match="Pass one of 'half'"):
        flows.realnvp(2, mask="halves")


@pytest.mark.parametrize(
    ("support", "size", "event", "inside"),
    [
        (constraints.positive, 2, (2,), lambda y: (y > 0).all()),
        (constraints.interval(-1.0, 3.0), 2, (2,), lambda y: ((y > -1) & (y < 3)).all()),
        (constraints.simplex, 2, (3,), lambda y: torch.allclose(y.sum(-1), torch.ones(()))),
        (
            [constraints.positive, constraints.real, constraints.unit_interval],
            3,
            (3,),
            lambda y: (y[..., 0] > 0).all() and ((y[..., 2] > 0) & (y[..., 2] < 1)).all(),
        ),
    ],
    ids=["positive", "interval", "simplex", "mixed"],
)
def test_support(support: object, size: int, event: tuple[int, ...], inside) -> None:
    flow = flows.realnvp(size, support=support)
    d = flow()
    y = d.sample((50,))
    assert y.shape == (50, *event)
    assert flow.event_shape == event
    assert inside(y)
    assert d.support.check(y).all()
    assert d.log_prob(y).isfinite().all()


def test_initialize_standardises_and_keeps() -> None:
    flow = flows.nsf(2)
    x = torch.randn(500, 2) * torch.tensor([100.0, 1e-3]) + torch.tensor([1e4, -5.0])
    flow.initialize(x)
    base_side = flow.transform.inverse_and_ladj(x)[0]
    torch.testing.assert_close(base_side.mean(0), torch.zeros(2), rtol=0, atol=1e-2)
    torch.testing.assert_close(base_side.std(0), torch.ones(2), rtol=0, atol=2e-2)
    before = flow().log_prob(x)
    flow.initialize(2 * x)
    torch.testing.assert_close(flow().log_prob(x), before)


def test_initialize_refuses_bad_data() -> None:
    flow = flows.maf(2)
    with pytest.raises(ValueError, match="at least 2"):
        flow.initialize(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="NaN or infinite"):
        flow.initialize(torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]))


def test_any_module_that_gives_a_distribution_is_a_base() -> None:
    class Laplace(nn.Module):
        def forward(self, context: Tensor | None = None) -> dist.TorchDistribution:
            return dist.Laplace(torch.zeros(2), torch.ones(2)).to_event(1)

    flow = Flow(Laplace(), LULinear(2))
    assert flow().log_prob(torch.zeros(5, 2)).shape == (5,)
    assert flow.event_shape == (2,)


def test_chain_of_torch_parts_inverts() -> None:
    exp = torch.distributions.ExpTransform()
    chain = Compose([LULinear(2), exp, exp.inv, torch.distributions.ComposeTransform([exp])])
    x = torch.randn(5, 2)
    torch.testing.assert_close(chain.inv(chain(x)), x)
    assert chain.codomain.event_dim == 1
    with pytest.raises(TypeError, match="got a part of type int"):
        Compose([LULinear(2), 3])
    with pytest.raises(ValueError, match="context_dim"):
        Compose([flows.maf(2, context_dim=2).transform, flows.maf(2, context_dim=3).transform])


def test_pyros_own_layers_are_parts_and_keep_their_parameters() -> None:
    theirs = dist.transforms.affine_autoregressive(2, [8])
    chain = Compose([LULinear(2), theirs.inv, ToSupport(constraints.positive, 2)])
    assert set(theirs.parameters()) <= set(chain.parameters())
    conditional = dist.transforms.conditional_affine_coupling(2, 3, [8])
    with pytest.raises(ValueError, match="context_dim"):
        Compose([conditional])
    chain = Compose([conditional, LULinear(2)], context_dim=3)
    context, x = torch.randn(5, 3), torch.randn(5, 2)
    y, ladj = chain.forward_and_ladj(x, context)
    back, back_ladj = chain.inverse_and_ladj(y, context)
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(back_ladj, -ladj, rtol=1e-4, atol=1e-5)


@NAMES
def test_every_dimension_depends_on_every_other(name: str) -> None:
    flow = getattr(flows, name)(5, transforms=4, activation="silu").double()
    perturb(flow, 0.3)
    x = torch.randn(5, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda v: flow.transform.forward_and_ladj(v)[0])(x)
    assert (jacobian != 0).all()


@NAMES
def test_log_prob_compiles_maps_and_differentiates(name: str) -> None:
    flow = getattr(flows, name)(3, transforms=2, activation="silu", hidden_dims=(6,))
    perturb(flow, 0.3)
    x = torch.randn(4, 3)
    want = flow().log_prob(x)
    torch.compiler.reset()
    compiled = torch.compile(lambda v: flow().log_prob(v), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), want)
    torch.testing.assert_close(torch.vmap(lambda v: flow().log_prob(v))(x), want)
    leaf = x.clone().requires_grad_()
    score = torch.autograd.grad(flow().log_prob(leaf).sum(), leaf)[0]
    mapped = torch.vmap(torch.func.grad(lambda v: flow().log_prob(v)))(x)
    torch.testing.assert_close(mapped, score)


@NAMES
def test_empty_batches_and_float64(name: str) -> None:
    flow = getattr(flows, name)(3, context_dim=2).double()
    context = torch.zeros(0, 2, dtype=torch.float64)
    d = flow(context)
    assert d.batch_shape == (0,)
    assert d.sample().shape == (0, 3)
    assert d.log_prob(d.sample()).shape == (0,)
    draw = flow(torch.zeros(2, dtype=torch.float64)).rsample((7,))
    assert draw.dtype == torch.float64


@pytest.mark.parametrize("batch", [(), (2,), (5,)])
def test_pyros_conditional_layer_of_scalars_is_a_part(batch: tuple[int, ...]) -> None:
    theirs = dist.transforms.conditional_spline(2, 3, [8], count_bins=4)
    flow = Flow(DiagonalNormal(2), Compose([theirs], context_dim=3))
    context, x = torch.randn(*batch, 3), 0.5 * torch.randn(*batch, 2)
    d = flow(context)
    assert (d.batch_shape, d.event_shape) == (batch, (2,))
    assert d.log_prob(x).shape == batch
    for row in itertools.product(*map(range, batch)):  # Pyro's own shapes hold for one context
        transform = theirs.condition(context[row])
        base_side = transform.inv(x[row])
        want = dist.Normal(0.0, 1.0).log_prob(base_side) - transform.log_abs_det_jacobian(
            base_side, x[row]
        )
        torch.testing.assert_close(d.log_prob(x)[row], want.sum())


def test_a_part_that_cannot_invert_is_named() -> None:
    flow = Flow(DiagonalNormal(2), dist.transforms.planar(2))
    with pytest.raises(NotImplementedError, match="Planar cannot invert"):
        flow().log_prob(torch.zeros(2))


@NAMES
def test_wrong_types_are_refused(name: str) -> None:
    make = getattr(flows, name)
    flow, conditional = make(2), make(2, context_dim=3)
    with pytest.raises(TypeError, match=r"float32.*float64.*value.to"):
        flow().log_prob(torch.zeros(5, 2, dtype=torch.float64))
    with pytest.raises(TypeError, match="context of dtype torch.float64"):
        conditional(torch.zeros(5, 3, dtype=torch.float64))
    with pytest.raises(TypeError, match="dtype torch.int64"):
        flow().log_prob(torch.zeros(5, 2, dtype=torch.long))
    with pytest.raises(TypeError, match="of type ndarray"):
        flow().log_prob(torch.zeros(5, 2).numpy())
    with pytest.raises(TypeError, match="of type list"):
        conditional([0.0, 0.0, 0.0])
    with pytest.raises(TypeError, match="x of dtype torch.float64"):
        flow.initialize(torch.zeros(5, 2, dtype=torch.float64))
    with pytest.raises(TypeError, match="base of type Independent"):
        make(2, base=dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pytest.raises(ValueError, match="input_dim=3 and a transform with input_dim=2"):
        make(2, base=DiagonalNormal(3))
    with pytest.raises(TypeError, match="base of type Linear. Pass a module whose call"):
        make(2, base=nn.Linear(2, 2))


def test_data_outside_of_the_support_do_not_initialize() -> None:
    with pytest.raises(ValueError, match="outside of the flow's support"):
        flows.maf(2, support=constraints.positive).initialize(-torch.rand(9, 2))


def test_wirings_refuse_what_is_no_bijection() -> None:
    for bijection in (Affine, "affine", None):
        with pytest.raises(TypeError, match="Pass an instance"):
            Coupling(bijection, 3)
    with pytest.raises(TypeError, match=r"whole vectors. Pass it to pyro_nf.transforms.Joint"):
        Elementwise(Rotation(), 3)
    with pytest.raises(TypeError, match="mask=None"):
        Coupling(Affine(), 3, mask=None)
    with pytest.raises(TypeError, match="order=5"):
        Autoregressive(Affine(), 3, fast="sample", order=5)


def test_chains_refuse_parts_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="got x with last dimension 3"):
        Compose([ActNorm(3), ActNorm(2)])
    with pytest.raises(TypeError, match="Pass a list"):
        Compose(ActNorm(3))
    with pytest.raises(TypeError, match="owns no parameters"):
        Flow(DiagonalNormal(2), flows.maf(2, context_dim=1).transform.condition(torch.zeros(1)))
    with pytest.raises(ValueError, match="built without context"):
        FlowDistribution(DiagonalNormal(2)(), ActNorm(2), torch.zeros(3))


@pytest.mark.parametrize(
    ("flow", "value", "message"),
    [
        (flows.nsf(2), [[0.0, 1.0], [math.nan, 1.0]], r"got \[nan, 1\] at \[1\].*of ActNorm"),
        (
            flows.nsf(2, support=constraints.positive),
            [1.0, -2.0],
            r"got \[1, -2\], outside of .*GreaterThan.*of ToSupport",
        ),
        (flows.nsf(2), [[0.0, 1.0], [1.0, -math.inf]], r"got \[1, -inf\] at \[1\].*of ActNorm"),
    ],
    ids=["nan", "negative", "infinite"],
)
def test_values_outside_name_layer_and_domain(flow, value, message) -> None:
    with pytest.raises(ValueError, match=message):
        flow().log_prob(torch.tensor(value))


def test_repr_shows_shapes_and_transform() -> None:
    d = flows.maf(3, context_dim=2)(torch.zeros(7, 2))
    assert repr(d) == "FlowDistribution(batch_shape=(7,), event_shape=(3,), transform=Compose)"
