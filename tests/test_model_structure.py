"""The structure of a posterior, read off its model: who must know of whom."""

from __future__ import annotations

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from guide_models import SIGMA, Y, schools
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.infer.inspect import get_dependencies

from pyro_nf.infer import _structure
from pyro_nf.infer._first_values import init_to_origin
from pyro_nf.infer._latents import LatentSpace
from pyro_nf.infer._log_joint import LogJoint
from pyro_nf.infer._structure_graph import ancestors, eliminate


def non_centred():
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 8):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * theta, SIGMA), obs=Y)


def chain():
    x = torch.tensor(0.0)
    for t in range(5):
        x = pyro.sample(f"x{t}", dist.Normal(x, 1.0))
        pyro.sample(f"y{t}", dist.StudentT(3.0, x, 1.0), obs=torch.tensor(0.5))


def nested():
    top = pyro.sample("top", dist.StudentT(3.0, 0.0, 1.0))
    with pyro.plate("outer", 2, dim=-2):
        a = pyro.sample("a", dist.StudentT(3.0, top, 1.0))
        with pyro.plate("inner", 3, dim=-1):
            b = pyro.sample("b", dist.StudentT(3.0, a, 1.0))
            pyro.sample("y", dist.Normal(b, 1.0), obs=torch.zeros(2, 3))


def crossing():
    rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 3, dim=-1)
    with rows:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with columns:
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with rows, columns:
        pyro.sample("y", dist.StudentT(3.0, a + b, 1.0), obs=torch.zeros(2, 3))


def locals_in_pairs():
    tau = pyro.sample("tau", dist.LogNormal(0.0, 1.0))
    with pyro.plate("units", 3):
        a = pyro.sample("a", dist.Normal(0.0, tau))
        b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.StudentT(3.0, a * b.sum(-1), 1.0), obs=torch.zeros(3))


def globals_last():
    units = pyro.plate("units", 3)
    with units:
        theta = pyro.sample("theta", dist.Normal(0.0, 10.0))
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with units:
        pyro.sample("link", dist.StudentT(3.0, theta - mu, 1.0), obs=torch.zeros(3))


def collider():
    with pyro.plate("units", 3):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    pyro.sample("alone", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.StudentT(3.0, a.sum() + b, 1.0), obs=torch.tensor(1.0))


def events():
    corr = pyro.sample("corr", dist.LKJCholesky(3, 2.0))
    with pyro.plate("groups", 2):
        p = pyro.sample("p", dist.Dirichlet(torch.full((3,), 2.0)))
        pyro.sample("k", dist.Categorical(p), obs=torch.tensor([0, 2]))
    x = torch.tensor([0.3, -0.2, 1.0])
    pyro.sample("y", dist.MultivariateStudentT(3.0, torch.zeros(3), corr), obs=x)


MODELS = [
    non_centred,
    chain,
    nested,
    crossing,
    locals_in_pairs,
    globals_last,
    collider,
    events,
]


def latents(model, *args):
    with poutine.block():
        run = poutine.trace(InitMessenger(init_to_origin)(model)).get_trace(*args)
    return LatentSpace("test", run)


def structure(model, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return _structure.find_structure(model, args, {}, latents(model, *args).sites)


def by_site(model, *args):
    """The parents of each site's dimensions, as site names with their index in the site."""
    sites, parents = latents(model, *args).sites, structure(model, *args).parents
    names = [(name, i) for name, site in sites.items() for i in range(site.stop - site.start)]
    return {
        child: {names[j] for j in parents[i].nonzero().flatten().tolist()}
        for i, child in enumerate(names)
    }


def hessian_pattern(model, *args):
    space = latents(model, *args)
    log_joint = LogJoint(model, args, {}, space)
    pattern = torch.zeros(space.dim, space.dim, dtype=torch.bool)
    for seed in range(3):
        z = torch.randn(space.dim, generator=torch.Generator().manual_seed(seed))
        hessian = torch.autograd.functional.hessian(lambda v: log_joint(v[None]).sum(), z)
        pattern |= hessian.abs() > 1e-5
    return pattern


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_parents_are_those_of_the_hessian(model):
    sites = latents(model).sites
    in_plates = {name: len(site.plates) for name, site in sites.items()}
    by_plates = sorted(sites.values(), key=lambda site: in_plates[site.name])
    order = [i for site in by_plates for i in range(site.start, site.stop)]
    expected = eliminate(hessian_pattern(model), order)
    found = structure(model).parents
    if model is events:  # entries of one event count as dependent, some of these are not
        assert not (expected & ~found).any()
    else:
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("model", [schools, non_centred], ids=["centred", "non-centred"])
def test_schools_depend_on_the_globals_alone(model):
    args = (Y, SIGMA) if model is schools else ()
    parents = by_site(model, *args)
    assert parents["mu", 0] == set()
    assert parents["tau", 0] == {("mu", 0)}
    for j in range(8):
        assert parents["theta", j] == {("mu", 0), ("tau", 0)}


def test_chain_depends_on_the_step_before():
    parents = by_site(chain)
    assert parents["x0", 0] == set()
    assert all(parents[f"x{t}", 0] == {(f"x{t - 1}", 0)} for t in range(1, 5))
    # What the base must share is everything before.
    torch.testing.assert_close(structure(chain).ancestors, torch.ones(5, 5).tril(-1) > 0)


def test_nested_plates_keep_their_rows_apart():
    parents = by_site(nested)
    assert parents["a", 1] == {("top", 0)}
    assert [parents["b", j] for j in (0, 2, 3, 5)] == [{("a", 0)}] * 2 + [{("a", 1)}] * 2


def test_crossing_plates_fill_in_the_first():
    parents = by_site(crossing)
    assert parents["a", 1] == {("a", 0)}  # both explain the same columns
    assert parents["b", 2] == {("a", 0), ("a", 1)}


def test_globals_come_first_wherever_the_model_has_them():
    parents = by_site(globals_last)
    assert parents["mu", 0] == set()
    assert all(parents["theta", j] == {("mu", 0)} for j in range(3))


def test_a_sum_that_is_observed_joins_what_it_sums():
    parents = by_site(collider)
    assert parents["alone", 0] == set()
    assert parents["a", 0] == {("b", 0)}
    assert parents["a", 2] == {("b", 0), ("a", 0), ("a", 1)}


def test_entries_of_an_event_depend_on_each_other():
    parents = by_site(events)
    assert parents["corr", 2] == {("corr", 0), ("corr", 1)}
    assert parents["p", 1] == {("p", 0)}  # two free entries a group
    assert parents["p", 3] == {("p", 2)}


def test_moral_edges_are_those_of_pyro():
    """Between whole sites, the graph before elimination is Pyro's, made symmetric."""
    for model in (non_centred, nested, crossing, locals_in_pairs, collider):
        sites = latents(model).sites
        posterior = get_dependencies(model)["posterior_dependencies"]
        edges = {frozenset((u, v)) for u, vs in posterior.items() for v in vs if v in sites}
        factors = _structure.find_factors(model).factors
        ours = {frozenset((u, v)) for f in factors for u in f.latents for v in f.latents}
        assert ours == edges


# What Pyro's own account of a model misses.


def test_values_written_in_place_are_followed():
    def model():
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        loc = torch.zeros(2)
        loc[0] = a + b
        pyro.sample("y", dist.Normal(loc, 1.0).to_event(1), obs=torch.zeros(2))

    assert by_site(model)["b", 0] == {("a", 0)}


def test_values_inside_of_vmap_are_followed():
    def model():
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        loc = torch.func.vmap(lambda t: a * b * t)(torch.ones(2))
        pyro.sample("y", dist.Normal(loc, 1.0).to_event(1), obs=torch.zeros(2))

    assert by_site(model)["b", 0] == {("a", 0)}


@pytest.mark.parametrize(
    "mix", [lambda z: z.cumsum(-1), lambda z: z - z.mean(), lambda z: z[[1, 0, 2]]]
)
def test_rows_of_a_plate_that_see_each_other_are_found(mix):
    def model():
        with pyro.plate("steps", 3):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.StudentT(3.0, mix(z) * z, 1.0), obs=torch.zeros(3))

    found = structure(model)
    torch.testing.assert_close(found.parents, torch.ones(3, 3).tril(-1) > 0)
    assert "'steps'" in found.notes[0]


def test_a_latent_that_is_summed_out_joins_its_neighbours():
    def model():
        weight = pyro.sample("weight", dist.Beta(2.0, 2.0))
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 3):
            k = pyro.sample("k", dist.Bernoulli(weight), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(loc * k, 1.0), obs=torch.zeros(3))

    with poutine.block():
        hidden = poutine.block(model, hide=["k"])
        run = poutine.trace(InitMessenger(init_to_origin)(hidden)).get_trace()
    sites = LatentSpace("test", run).sites
    for visible in (model, hidden):
        parents = _structure.find_structure(visible, (), {}, sites).parents
        assert parents.tolist() == [[False, False], [True, False]]


def test_improper_priors_and_factors_need_no_draw():
    def model():
        a = pyro.sample("a", dist.ImproperUniform(dist.constraints.positive, (), ()))
        b = pyro.sample("b", dist.Normal(0.0, 1.0).mask(False))  # noqa: FBT003
        c = pyro.sample("c", dist.Normal(b, 1.0))
        pyro.factor("tilt", -((a * b) ** 2))
        pyro.deterministic("sum", a + c)

    parents = by_site(model)
    assert (parents["a", 0], parents["b", 0]) == (set(), {("a", 0)})
    assert parents["c", 0] == {("b", 0)}


def test_runs_leave_no_trace():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with poutine.trace() as tr:
        structure(schools, Y, SIGMA)
    torch.testing.assert_close(torch.rand(2), expected)
    assert not [n for n in tr.trace.nodes if n != "_INPUT"]


def test_where_it_fails_all_depend_on_all_before():
    def model():
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        if type(a) is not torch.Tensor:  # as external code may refuse a subclass
            raise TypeError("plain tensors only")
        pyro.sample("b", dist.Normal(0.0, 1.0))

    sites = latents(model).sites
    with pytest.warns(UserWarning, match="plain tensors only"):
        found = _structure.find_structure(model, (), {}, sites)
    torch.testing.assert_close(found.parents, torch.ones(2, 2).tril(-1) > 0)
    assert found.density == 1


def test_sites_that_come_and_go_are_named():
    flips = iter(range(100))

    def model():
        pyro.sample("a", dist.Normal(0.0, 1.0))
        if next(flips) % 2:
            pyro.sample("extra", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))

    sites = latents(model).sites
    with pytest.warns(UserWarning, match="extra come and go"):
        _structure.find_structure(model, (), {}, sites)


# The graph alone.


def test_elimination_gives_the_pattern_of_the_cholesky_factor():
    """Of a precision matrix that is Markov to a graph, in the order of elimination."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        graph = torch.rand(9, 9, generator=generator) < 0.2
        graph = graph | graph.T
        weights = torch.rand(9, 9, generator=generator, dtype=torch.float64) - 0.5
        precision = (weights + weights.T) * graph + 10 * torch.eye(9, dtype=torch.float64)
        # p(z) = ∏ p(z_i | z_1 … z_{i-1}): rows of the factor U of precision = U Uᵀ, U upper.
        flipped = torch.linalg.cholesky(precision.flip(0, 1)).flip(0, 1)
        regress = flipped.T  # row i: the coefficients of z_i and of those before it
        pattern = (regress.abs() > 1e-12).fill_diagonal_(0)
        torch.testing.assert_close(eliminate(graph, range(9)), pattern)


def test_ancestors_are_closed():
    parents = torch.zeros(4, 4, dtype=torch.bool)
    parents[1, 0] = parents[2, 1] = parents[3, 2] = True
    closed = ancestors(parents)
    torch.testing.assert_close(closed, torch.ones(4, 4).tril(-1) > 0)
    torch.testing.assert_close(ancestors(closed), closed)
