"""The switch between torch's matrix products and oneDNN's."""

from __future__ import annotations

import pytest
import torch

from pyro_nf import flows
from pyro_nf.nn import _products, use_matrix_products

needs_onednn = pytest.mark.skipif(not _products._available(), reason="torch was built without it")


@pytest.fixture(autouse=True)
def torchs_own():
    yield
    use_matrix_products("torch")


@pytest.fixture
def calls(monkeypatch):
    """Counts the products that oneDNN makes."""
    made, real = [], _products._onednn
    monkeypatch.setattr(_products, "_onednn", lambda *args: made.append(0) or real(*args))
    return made


def outcome(flow, x, context=None):
    flow.zero_grad()
    density = flow(context)
    log_prob = density.log_prob(x)
    log_prob.sum().backward()
    return log_prob, [p.grad.clone() for p in flow.parameters() if p.grad is not None]


@needs_onednn
@pytest.mark.parametrize("context_dim", [0, 2])
def test_same_numbers(calls, context_dim):
    flow = flows.maf(40, transforms=2, hidden_dims=(128, 128), context_dim=context_dim)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.normal_(0, 0.1)
    x = torch.randn(512, 40)
    context = torch.randn(512, 2) if context_dim else None
    expected = outcome(flow, x, context)
    assert not calls
    assert use_matrix_products("onednn") == "onednn"
    torch.testing.assert_close(outcome(flow, x, context), expected, rtol=1e-4, atol=1e-3)
    assert calls


@needs_onednn
def test_small_products_and_other_dtypes_stay_with_torch(calls):
    use_matrix_products("onednn")
    outcome(flows.realnvp(4, hidden_dims=(16,)), torch.randn(8, 4))
    outcome(flows.maf(40, hidden_dims=(128, 128)).double(), torch.randn(512, 40).double())
    assert not calls


@needs_onednn
def test_second_derivatives_and_tracers(calls):
    flow = flows.maf(40, transforms=1, hidden_dims=(128, 128))
    use_matrix_products("onednn")
    x = torch.randn(512, 40, requires_grad=True)
    (first,) = torch.autograd.grad(flow().log_prob(x).sum(), x, create_graph=True)
    first.square().sum().backward()
    assert x.grad.isfinite().all()
    calls.clear()
    torch.func.grad(lambda x: flow().log_prob(x).sum())(x)
    assert not calls


@needs_onednn
@pytest.mark.parametrize(("gain", "library"), [(2.0, "onednn"), (1.02, "torch"), (0.7, "torch")])
def test_the_faster_one_is_taken(monkeypatch, gain, library):
    monkeypatch.setattr(_products, "_gain", lambda: gain)
    assert use_matrix_products("fastest") == library
    assert _products._library == library


@needs_onednn
def test_the_gain_is_measured():
    assert 0.05 < _products._gain() < 20


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match="fastest"):
        use_matrix_products("mkl")
    monkeypatch.setattr(_products, "_available", lambda: False)
    assert use_matrix_products("fastest") == "torch"
    with pytest.raises(ValueError, match="Pass 'torch'"):
        use_matrix_products("onednn")
