"""``flow.compile()``: both directions as one program each, and no more of them than needed."""

from __future__ import annotations

import copy
import pickle

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroSample
from torch import nn

from pyro_nf import flows, infer
from pyro_nf.distributions import DiagonalNormal

# Programs are run as they were recorded: what torch's other backends make of them is theirs.
FLOWS = {
    "realnvp": lambda c: flows.realnvp(3, transforms=2, hidden_dims=(8,), context_dim=c),
    "maf": lambda c: flows.maf(3, transforms=2, hidden_dims=(8,), context_dim=c),
    "nsf": lambda c: flows.nsf(3, transforms=1, bins=4, hidden_dims=(8,), context_dim=c),
}


class Counter:
    """A backend that counts the programs it is given."""

    def __init__(self) -> None:
        self.programs = 0

    def __call__(self, module: torch.fx.GraphModule, _: object) -> object:
        self.programs += 1
        return module.forward


def perturbed(flow: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return flow


@pytest.mark.parametrize(("name", "context_dim"), [("realnvp", 2), ("maf", 0), ("nsf", 2)])
def test_same_numbers_and_gradients(name, context_dim):
    flow = perturbed(FLOWS[name](context_dim)).double()
    compiled = copy.deepcopy(flow).compile(backend="eager")
    context = torch.randn(5, 2, dtype=torch.float64) if context_dim else None
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for one in (flow, compiled):
        torch.manual_seed(1)
        y = one(context).rsample(() if context_dim else (5,))
        loss = one(context).log_prob(x).sum() + one(context).log_prob(y.detach()).sum() + y.sum()
        grads = torch.autograd.grad(loss, [x, *one.parameters()], allow_unused=True)
        found.append((y, loss, [g for g in grads if g is not None]))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", ["realnvp", "nsf"])
def test_one_program_whatever_the_size_of_the_batch(name):
    counter = Counter()
    flow = FLOWS[name](0).compile(backend=counter)
    for rows in (4, 7, 32, 5):
        flow().log_prob(torch.randn(rows, 3)).sum().backward()
    assert counter.programs == 1
    for rows in (4, 7, 32):
        flow().rsample((rows,))
    assert counter.programs == 2
    flow.double()
    flow().log_prob(torch.randn(6, 3).double())
    assert counter.programs == 3


def test_training_needs_no_second_program():
    counter = Counter()
    flow = flows.maf(3, transforms=2, hidden_dims=(8,)).compile(backend=counter)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    x, losses = torch.randn(16, 3) * 2 + 1, []
    for _ in range(20):
        loss = -flow().log_prob(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert counter.programs == 1
    assert losses[-1] < losses[0] - 0.1


@torch._dynamo.config.patch(recompile_limit=2)
def test_flows_do_not_use_up_each_others_room():
    for size in (2, 3, 4):
        flow = flows.realnvp(size, transforms=1, hidden_dims=(4,)).compile(backend="eager")
        for rows in (torch.zeros(3, size), torch.zeros(3, size, requires_grad=True)):
            flow().log_prob(rows)


def test_copies_compile_anew():
    flow = perturbed(FLOWS["maf"](0)).compile(backend="eager")
    x = torch.randn(4, 3)
    expected = flow().log_prob(x)
    for other in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        torch.testing.assert_close(other().log_prob(x), expected)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert (other().log_prob(x) - expected).abs().max() > 0.1
        torch.testing.assert_close(flow().log_prob(x), expected)
    assert set(flow.state_dict()) == set(FLOWS["maf"](0).state_dict())


# Torch's compiler looks at the gradient of a tensor that is no leaf, and warns of its own look.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_one_draw_is_scored_without_a_pass_back():
    counter = Counter()
    flow = perturbed(FLOWS["maf"](0)).compile(backend=counter)
    density = flow()
    y = density.rsample((6,))
    first = density.log_prob(y)
    assert counter.programs == 1
    torch.testing.assert_close(first, density.log_prob(y, reuse=False), rtol=1e-4, atol=1e-4)
    assert counter.programs == 2


def test_shapes_and_dtypes_are_checked_before_the_program():
    flow = FLOWS["maf"](0).compile(backend="eager")
    with pytest.raises(ValueError, match="expected"):
        flow().log_prob(torch.randn(4, 2))
    with pytest.raises(TypeError, match="dtype"):
        flow().log_prob(torch.randn(4, 3).double())


def test_side_results_take_the_layers_own_pass():
    counter = Counter()
    flow = FLOWS["maf"](0).compile(backend=counter)
    with flow.auxiliary():
        flow().log_prob(torch.randn(4, 3))
    assert counter.programs == 0
    flow().log_prob(torch.randn(4, 3))
    assert counter.programs == 1


def test_expanded_distributions_and_maps():
    flow = perturbed(FLOWS["realnvp"](0)).compile(backend="eager")
    x = torch.randn(5, 3)
    expected = flow().log_prob(x)
    torch.testing.assert_close(flow().expand((5,)).log_prob(x), expected)
    torch.testing.assert_close(torch.vmap(lambda row: flow().log_prob(row))(x), expected)


def test_a_fit_runs_on_the_programs():
    counter = Counter()
    flow = FLOWS["realnvp"](0).compile(backend=counter)
    infer.fit_density(flow, torch.randn(200, 3), max_steps=5, batch_size=32, progress=False)
    assert counter.programs >= 1


@torch._dynamo.config.patch(recompile_limit=1)
def test_what_finds_no_room_runs_uncompiled():
    flow = FLOWS["realnvp"](0).compile(backend="eager")
    x = torch.randn(4, 3)
    expected = flow().log_prob(x)
    with pytest.warns(RuntimeWarning, match="uncompiled"):
        found = flow().log_prob(x.unsqueeze(0).requires_grad_())
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(flow().log_prob(x), expected)


def test_a_sampled_base_takes_its_own_pass():
    flow = FLOWS["realnvp"](0)
    flow.base = PyroModule[DiagonalNormal](3, parameters="learned")
    flow.base.loc = PyroSample(dist.Normal(torch.zeros(3), 1.0).to_event(1))
    flow.compile(backend="eager")
    with poutine.trace():
        density = flow()
    x = torch.zeros(3)
    torch.testing.assert_close(density.log_prob(x), density.log_prob(x))
