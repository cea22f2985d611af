"""Autoregressive networks, layers and flows on a graph: their Jacobians' zeros follow it."""

from __future__ import annotations

import pytest
import torch
from case import perturb
from torch import Tensor

from pyro_nf import flows, infer
from pyro_nf.bijections import Affine, RationalQuadraticSpline
from pyro_nf.nn import MaskedMLP
from pyro_nf.transforms import Autoregressive

torch.set_num_threads(1)


def edges(size: int, *pairs: tuple[int, int]) -> Tensor:
    """A matrix with an entry for each pair (i, j): i may depend on j."""
    matrix = torch.zeros(size, size, dtype=torch.bool)
    for pair in pairs:
        matrix[pair] = True
    return matrix


def random_graph(size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    below = torch.rand(size, size, generator=generator).tril(-1) > 0.6
    shuffle = torch.randperm(size, generator=generator)
    return below[shuffle][:, shuffle]


def ancestors(adjacency: Tensor) -> Tensor:
    """Who depends on whom, through others too, each on itself."""
    step = adjacency.float() + torch.eye(len(adjacency))
    return torch.linalg.matrix_power(step, len(adjacency)) > 0


GRAPHS = {
    "chain": edges(5, (1, 0), (2, 1), (3, 2), (4, 3)),
    "backward chain": edges(5, (0, 1), (1, 2), (2, 3), (3, 4)),
    "collider": edges(4, (3, 0), (3, 1), (3, 2)),
    "fork": edges(4, (0, 2), (1, 2), (3, 2)),
    "diamond": edges(5, (1, 0), (2, 0), (3, 1), (3, 2), (4, 0)),
    "crossing": edges(6, (3, 0), (3, 1), (4, 1), (4, 2), (5, 0), (5, 2)),
    "triangle": torch.ones(5, 5, dtype=torch.bool).tril(-1),
    "two parts": edges(5, (4, 0), (1, 3)),
    **{f"random {seed}": random_graph(8, seed) for seed in range(6)},
}
EVERY = pytest.mark.parametrize("name", GRAPHS)


def jacobian(function, value: Tensor) -> Tensor:
    return torch.autograd.functional.jacobian(function, value)


@EVERY
@pytest.mark.parametrize("hidden_dims", [(), (8,), (9, 17, 8)], ids=str)
@pytest.mark.parametrize("context_dim", [0, 2])
def test_masks_follow_the_graph_exactly(name, hidden_dims, context_dim):
    adjacency = GRAPHS[name]
    network = MaskedMLP(
        len(adjacency), 2, hidden_dims, adjacency=adjacency, context_dim=context_dim
    )
    assert torch.equal(network.depends_on(), adjacency)
    assert torch.equal(network.adjacency, adjacency)


@EVERY
@pytest.mark.parametrize("fast", ["log_prob", "sample"])
@pytest.mark.parametrize("context_dim", [0, 2])
def test_jacobians_follow_the_graph_in_both_directions(name, fast, context_dim):
    adjacency = GRAPHS[name]
    size = len(adjacency)
    layer = Autoregressive(
        RationalQuadraticSpline(bins=4),
        size,
        fast=fast,
        hidden_dims=(11, 8),
        activation="tanh",
        residual="skip",
        adjacency=adjacency,
        context_dim=context_dim,
    ).double()
    perturb(layer, 1.0)
    u = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    context = torch.ones(context_dim, dtype=torch.float64) if context_dim else None
    read, solve = layer.inverse_and_ladj, layer.forward_and_ladj
    if fast == "sample":
        read, solve = solve, read
    v, ladj = read(u, context)
    diagonal = torch.eye(size, dtype=torch.bool)
    assert torch.equal(jacobian(lambda u: read(u, context)[0], u) != 0, adjacency | diagonal)
    back, back_ladj = solve(v, context)
    torch.testing.assert_close(back, u)
    torch.testing.assert_close(back_ladj, -ladj)
    slow = jacobian(lambda v: solve(v, context)[0], v)
    assert (slow[~ancestors(adjacency)] == 0).all()
    fast_jacobian = jacobian(lambda u: read(u, context)[0], u)
    torch.testing.assert_close(slow @ fast_jacobian, torch.eye(size, dtype=torch.float64))


def test_the_full_triangle_is_the_default_network():
    default = MaskedMLP(5, 2, (8, 12))
    triangle = MaskedMLP(5, 2, (8, 12), adjacency=GRAPHS["triangle"])
    assert triangle.counts == default.counts
    for one, other in zip(triangle.children(), default.children(), strict=True):
        for name, buffer in other.named_buffers():
            assert torch.equal(one.get_buffer(name), buffer)


def test_the_default_network_has_no_further_state():
    assert "adjacency" not in MaskedMLP(3, 2).state_dict()


@pytest.mark.parametrize("context_dim", [0, 2])
def test_independent_dimensions(context_dim):
    layer = Autoregressive(
        Affine(), 4, fast="log_prob", adjacency=torch.zeros(4, 4), context_dim=context_dim
    )
    perturb(layer, 0.5)
    context = torch.randn(6, context_dim) if context_dim else None
    y = torch.randn(6, 4)
    slopes = jacobian(lambda y: layer.inverse_and_ladj(y, context)[0].sum(0), y)  # (4, 6, 4)
    for i in range(4):
        assert (slopes[i].sum(0) != 0).tolist() == [i == j for j in range(4)]
    back = layer.forward_and_ladj(layer.inverse_and_ladj(y, context)[0], context)[0]
    torch.testing.assert_close(back, y)


def test_one_dimension():
    layer = Autoregressive(Affine(), 1, fast="sample", adjacency=[[1]])
    assert layer.network.depends_on().tolist() == [[False]]
    assert layer.forward_and_ladj(torch.zeros(3, 1))[0].shape == (3, 1)


def test_the_derived_order_takes_the_smallest_index_first():
    adjacency = edges(5, (0, 4), (2, 3))
    assert MaskedMLP(5, 1, adjacency=adjacency).order.tolist() == [1, 3, 2, 4, 0]
    given = [4, 3, 2, 0, 1]
    network = MaskedMLP(5, 1, adjacency=adjacency, order=given)
    assert network.order.tolist() == given
    assert torch.equal(network.depends_on(), adjacency)


def test_the_diagonal_is_ignored():
    adjacency = GRAPHS["chain"] | torch.eye(5, dtype=torch.bool)
    assert torch.equal(MaskedMLP(5, 1, adjacency=adjacency).depends_on(), GRAPHS["chain"])


@pytest.mark.parametrize(
    ("adjacency", "cycle"),
    [
        (edges(4, (0, 3), (3, 1), (1, 0)), "0 -> 3 -> 1 -> 0"),
        (edges(4, (3, 2), (2, 3), (0, 2)), "2 -> 3 -> 2"),
        (edges(5, (4, 1), (1, 2), (2, 4), (0, 4), (3, 0)), "1 -> 2 -> 4 -> 1"),
    ],
)
def test_a_cycle_is_printed(adjacency, cycle):
    for build in (
        lambda: MaskedMLP(len(adjacency), 2, adjacency=adjacency),
        lambda: Autoregressive(Affine(), len(adjacency), fast="sample", adjacency=adjacency),
        lambda: flows.maf(len(adjacency), adjacency=adjacency),
    ):
        with pytest.raises(ValueError, match=f"cycle {cycle} "):
            build()


def test_other_bad_graphs_are_refused():
    chain = GRAPHS["chain"]
    with pytest.raises(ValueError, match=r"shape \(5, 5\).*\(3, 3\)"):
        MaskedMLP(3, 2, adjacency=chain)
    with pytest.raises(ValueError, match="other entries than 0 and 1"):
        MaskedMLP(2, 2, adjacency=[[0.0, 0.0], [0.5, 0.0]])
    with pytest.raises(ValueError, match="dimension 1 before 0.*\\[0, 1, 2, 3, 4\\]"):
        MaskedMLP(5, 2, adjacency=chain, order=[1, 0, 2, 3, 4])
    with pytest.raises(ValueError, match="3 units .* 4 distinct sets .* at least 4"):
        MaskedMLP(5, 2, (16, 3), adjacency=chain)
    with pytest.raises(ValueError, match="couplings lack"):
        flows.nsf(5, wiring="coupling", adjacency=chain)


def test_a_checkpoint_restores_the_graph():
    """Order, masks and the counts of units by degree follow what is loaded."""
    options = {"fast": "sample", "hidden_dims": (9, 7), "activation": "tanh"}
    saved = Autoregressive(Affine(), 5, adjacency=GRAPHS["diamond"], **options)
    perturb(saved, 1.0)
    other = Autoregressive(Affine(), 5, adjacency=GRAPHS["backward chain"], **options)
    assert other.network.counts != saved.network.counts
    other.load_state_dict(saved.state_dict())
    assert torch.equal(other.network.depends_on(), GRAPHS["diamond"])
    y = torch.randn(6, 5)
    torch.testing.assert_close(other.inverse_and_ladj(y), saved.inverse_and_ladj(y))


NAMED = ["maf", "iaf", "nsf", "naf", "umnn", "sos", "bernstein", "circular_nsf"]


@pytest.mark.parametrize("name", NAMED)
def test_named_flows_follow_the_graph_at_any_depth(name):
    adjacency = GRAPHS["chain"]
    flow = getattr(flows, name)(5, transforms=2, adjacency=adjacency, activation="tanh").double()
    perturb(flow, 0.5)
    run = flow.transform.forward_and_ladj if name == "iaf" else flow.transform.inverse_and_ladj
    value = torch.linspace(-1, 1, 5, dtype=torch.float64)
    zeros = jacobian(lambda v: run(v)[0], value) != 0
    assert torch.equal(zeros, adjacency | torch.eye(5, dtype=torch.bool))
    assert flow().sample((7,)).shape == (7, 5)


@pytest.mark.parametrize("name", NAMED)
def test_named_flows_alternate_a_given_order(name):
    flow = getattr(flows, name)(3, transforms=2, order=[2, 0, 1])
    orders = [p.network.order.tolist() for p in flow.transform.parts if hasattr(p, "network")]
    assert orders == [[2, 0, 1], [1, 0, 2]]
    with pytest.raises(ValueError, match="no permutation"):
        getattr(flows, name)(3, order=[0, 0, 1])


def test_a_fitted_markov_chain_is_conditionally_independent():
    """Given its middle, the ends of a fitted chain say nothing of each other."""
    torch.manual_seed(0)
    a = torch.randn(1500)
    b = a.square() + 0.3 * torch.randn(1500)
    c = b.tanh() + 0.3 * torch.randn(1500)
    x = torch.stack([a, b, c], -1)
    flow = flows.nsf(3, transforms=1, bins=6, adjacency=edges(3, (1, 0), (2, 1)))
    infer.fit_density(flow, x, max_steps=80, learning_rate=0.01, progress=False)
    point = torch.tensor([0.3, 0.5, 0.1])
    score = torch.autograd.functional.hessian(lambda v: flow().log_prob(v), point)
    assert score[0, 2] == 0
    assert score[0, 1].abs() > 0.1
    assert score[1, 2].abs() > 0.1
