"""The amortised guide: batches from outside, and wrong uses."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from amortized_models import (
    N,
    Y,
    conjugate,
    data,
    encoder,
    guide_of,
)
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.reparam import NeuTraReparam

from pyro_nf import infer
from pyro_nf.infer.autoguide.amortized import AutoAmortizedFlow

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


# Batches from outside.


def outside(batch, index):
    theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", N, subsample=index):
        z = pyro.sample("z", dist.Normal(theta, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=batch)


def test_create_plates_uses_the_users_indices():
    index = torch.tensor([3, 50, 7])
    guide = AutoAmortizedFlow(
        outside, create_plates=lambda batch, index: pyro.plate("rows", N, subsample=index)
    )
    guide.setup(Y[index], index)
    guide.zero_grad()
    Trace_ELBO().loss_and_grads(outside, guide, Y[index], index)
    assert guide.features.values.shape == (N, 2)
    touched = guide.features.values.grad.abs().sum(1).nonzero().flatten()
    assert touched.tolist() == [3, 7, 50]
    assert guide.median(Y[index], index, num_samples=50)["z"].shape == (3,)
    assert guide.median(None, None, rows=torch.arange(N), num_samples=5)["z"].shape == (N,)


def test_an_encoder_reads_the_users_batch():
    guide = AutoAmortizedFlow(
        outside,
        encoder(),
        data=lambda index, batch, _: batch[:, None],
        create_plates=lambda batch, index: pyro.plate("rows", N, subsample=index),
    )
    index = torch.tensor([3, 50, 7])
    assert guide(Y[index], index)["z"].shape == (3,)


def test_indices_of_the_users_own_are_refused():
    index = torch.tensor([3, 50, 7])
    for options in ({}, {"encoder": encoder(), "data": lambda index, *args: Y[index, None]}):
        with pytest.raises(ValueError, match="hands it its own by subsample="):
            AutoAmortizedFlow(outside, **options).setup(Y[index], index)


def test_a_permutation_of_all_rows_is_refused():
    with pytest.raises(ValueError, match="hands it its own by subsample="):
        AutoAmortizedFlow(outside).setup(Y, torch.randperm(N))


def test_a_batch_as_argument_is_refused():
    def model(batch):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", N, subsample_size=len(batch)) as index:
            z = pyro.sample("z", dist.Normal(theta, 1.0).expand([len(index)]))
            pyro.sample("y", dist.Normal(z, 1.0), obs=batch)

    with pytest.raises(ValueError, match="the model never reads them"):
        AutoAmortizedFlow(model).setup(Y[:10])
    # Nor does it help to make the same plate without saying which rows they are.
    with pytest.raises(ValueError, match="which rows a batch holds"):
        AutoAmortizedFlow(
            model, create_plates=lambda b: pyro.plate("rows", N, subsample_size=len(b))
        ).setup(Y[:10])


def test_pyro_subsample_reads_the_indices():
    def model(y):
        with pyro.plate("rows", N, subsample_size=5):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=pyro.subsample(y, event_dim=0))

    assert AutoAmortizedFlow(model)(Y)["z"].shape == (5,)


def test_plates_hidden_by_block_are_refused():
    hidden = poutine.block(conjugate, expose=["theta", "z"])
    with pytest.raises(ValueError, match="poutine.block hides them"):
        AutoAmortizedFlow(hidden).setup(Y)
    whole = AutoAmortizedFlow(hidden)(Y, N)  # of all rows there is nothing to see
    assert whole["z"].shape == (N,)


# Wrong uses.


def two_plates(y, *, sizes=(None, None), nested=False):
    outer = pyro.plate("outer", 4, subsample_size=sizes[0], dim=-2)
    inner = pyro.plate("inner", 6, subsample_size=sizes[1], dim=-1)
    with outer:
        pyro.sample("a", dist.Normal(0.0, 1.0))
    with inner:
        if nested:
            with outer:
                pyro.sample("b", dist.Normal(0.0, 1.0))
        else:
            pyro.sample("b", dist.Normal(0.0, 1.0))


def test_plates_that_are_ambiguous_or_unsupported():
    with pytest.raises(ValueError, match=r"in 2 plates, \['inner', 'outer'\]. Say by plate="):
        AutoAmortizedFlow(two_plates).setup(Y)
    with pytest.raises(ValueError, match="in 2 subsampled plates"):
        AutoAmortizedFlow(two_plates).setup(Y, sizes=(2, 3))
    with pytest.raises(ValueError, match="plate around it is not supported"):
        AutoAmortizedFlow(two_plates, plate="inner").setup(Y, nested=True)
    with pytest.raises(ValueError, match="plates of latents are"):
        AutoAmortizedFlow(two_plates, plate="other").setup(Y)
    drawn = AutoAmortizedFlow(two_plates, plate="inner")(Y)
    assert {n: tuple(v.shape) for n, v in drawn.items()} == {"a": (4, 1), "b": (6,)}


def test_models_without_latents_in_plates():
    def model(y):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(theta, 1.0), obs=y)

    with pytest.raises(ValueError, match="Use AutoFlow"):
        AutoAmortizedFlow(model).setup(Y)


def test_discrete_latents_are_refused():
    def model():
        with pyro.plate("rows", 4):
            pyro.sample("k", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match="discrete site 'k'"):
        AutoAmortizedFlow(model).setup()


def test_wrong_arguments():
    with pytest.raises(TypeError, match="model of type int"):
        AutoAmortizedFlow(3)
    with pytest.raises(ValueError, match="encoder without data"):
        AutoAmortizedFlow(conjugate, encoder())
    with pytest.raises(ValueError, match="data without encoder"):
        AutoAmortizedFlow(conjugate, data=data)
    guide = AutoAmortizedFlow(conjugate, encoder(), data=lambda i, y: y[:, None])
    for _ in range(2):  # a set-up that failed is none
        with pytest.raises(ValueError, match=r"features of shape \(100, 4\) for 2 rows"):
            guide.setup(Y)
    with pytest.raises(TypeError, match="features of type list"):
        AutoAmortizedFlow(conjugate, lambda x: [x], data=data).setup(Y)
    with pytest.raises(RuntimeError, match="guide.setup"):
        guide_of().load_state_dict({})


def test_neutra_is_refused():
    guide = guide_of().setup(Y)
    with pytest.raises(TypeError, match="AutoContinuous guide, but got .*AutoAmortizedFlow"):
        NeuTraReparam(guide)
    with pytest.raises(TypeError, match="type AutoAmortizedFlow"):
        infer.neutra(conjugate, guide)
