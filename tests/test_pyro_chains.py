"""Chains under Pyro's names: ``iterated``, guides, and what counts as a chain."""

from __future__ import annotations

import copy
import functools
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormalizingFlow
from pyro.nn import PyroModule
from pyro_layers import perturb

from pyro_nf import transforms as T  # noqa: N812

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", ["affine_coupling", "spline_coupling"])
def test_iterated_couplings_move_every_dimension(name: str) -> None:
    options = {"identity": True} if name == "spline_coupling" else {}
    for split in (1, 2, 4):
        chain = T.iterated(2, getattr(T, name), 5, split_dim=split, **options)
        perturb(chain)
        x = torch.randn(50, 5)
        assert len(chain) == 2
        assert ((chain(x) - x).abs().amax(0) > 0).all()


def test_iterated_alternates_orders_and_leaves_what_is_set() -> None:
    orders = [p.arn.order.tolist() for p in T.iterated(3, T.affine_autoregressive, 3).parts]
    assert orders == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]
    kept = [p.kept for p in T.iterated(3, T.affine_coupling, 4, parity=1).parts]
    assert kept == ["upper"] * 3
    partial = functools.partial(T.affine_coupling, hidden_dims=[3])
    assert [p.kept for p in T.iterated(2, partial, 4).parts] == ["lower", "upper"]
    assert len(T.iterated(2, lambda: T.planar(2))) == 2
    assert T.iterated(2, T.block_autoregressive, 2)(torch.zeros(2)).shape == (2,)
    with pytest.raises(ValueError, match="repeats=0"):
        T.iterated(0, T.planar, 2)


def test_pyros_autoguide_trains_a_chain() -> None:
    def model() -> None:
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    guide = AutoNormalizingFlow(model, functools.partial(T.iterated, 2, T.affine_autoregressive))
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
    assert all(svi.step() < 100 for _ in range(3))
    assert len(list(guide.parameters())) > 4


def test_every_chain_is_an_instance_of_ours() -> None:
    parts = [T.Permutation([1, 0]), T.ExpTransform()]
    ours = T.Compose(parts)
    views = [
        torch.distributions.ComposeTransform(parts),
        dist.transforms.ComposeTransformModule(parts),
        T.Compose([T.conditional_planar(2, 3)]).condition(torch.zeros(3)),
        ours,
    ]
    for chain in views:
        assert isinstance(chain, T.ComposeTransformModule)
    assert not isinstance(ours.inv, T.Compose)
    assert not isinstance(parts[0], T.Compose)
    wrapped = PyroModule[T.Compose](parts)
    assert isinstance(wrapped, PyroModule)
    assert isinstance(wrapped, T.Compose)
    assert not isinstance(ours, PyroModule[T.Compose])
    x = torch.randn(3, 2)
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        torch.testing.assert_close(twin(x), ours(x))


def test_pyros_conditional_chain_takes_our_layers() -> None:
    parts = [T.spline(2), T.conditional_spline_coupling(2, 3), T.AffineTransform(1.0, 2.0)]
    chain = dist.conditional.ConditionalComposeTransformModule(parts)
    base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    flow = dist.ConditionalTransformedDistribution(base, [chain])
    x, context = torch.randn(6, 2), torch.randn(6, 3)
    assert set(chain.parameters()) == {p for t in parts[:2] for p in t.parameters()}
    optimizer = torch.optim.Adam(chain.parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        loss = -flow.condition(context).log_prob(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
