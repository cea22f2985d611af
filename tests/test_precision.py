"""Float32 against float64, at inputs far out: nothing overflows, saturates or cancels."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, Case, build, inputs, norms
from torch import Tensor

EPS = torch.finfo(torch.float32).eps


def far_inputs(case: Case) -> tuple[Tensor, Tensor | None]:
    """Rows whose entries are ±1, ±10 and ±100 in all mixtures, the same in both precisions."""
    generator = torch.Generator().manual_seed(4)
    shape = (30, *case.event_shape)
    size = torch.tensor([1.0, 10.0, 100.0])[torch.randint(3, shape, generator=generator)]
    x = size * (2 * torch.rand(shape, generator=generator) - 1)
    context = torch.randn(30, case.context_dim, generator=generator) if case.context_dim else None
    return x, context


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_float32_agrees_with_float64_far_out(case: Case) -> None:
    """Within the rounding of x itself, which a steep map magnifies, and 1e-4 beside it."""
    if not case.far:
        pytest.skip("its domain is bounded")
    layer = build(case, scale=0.5, dtype=torch.float32)
    exact = build(case, scale=0.5, dtype=torch.float32).double()
    x, context = far_inputs(case)
    y, ladj = layer.forward_and_ladj(x, context)
    x64 = x.double().requires_grad_()
    y64, ladj64 = exact.forward_and_ladj(x64, None if context is None else context.double())
    assert y.isfinite().all()
    assert ladj.isfinite().all()
    rounding = 64 * EPS * norms(x.double(), case)
    y, y64 = y.reshape(len(x), -1), y64.reshape(len(x), -1)
    steepness = torch.stack(
        [
            torch.autograd.grad(y64[:, i].sum(), x64, retain_graph=True)[0].flatten(1).norm(dim=-1)
            for i in range(y64.shape[-1])
        ]
    ).amax(0)
    error = (y - y64).abs().amax(-1) / (1 + y64.abs().amax(-1))
    slack = rounding * steepness / (1 + y64.detach().abs().amax(-1))
    assert (error - slack).max() <= 1e-4 + case.solver_error
    slope = torch.zeros_like(x64)
    if ladj64.requires_grad:
        slope = torch.autograd.grad(ladj64.sum(), x64, allow_unused=True, materialize_grads=True)[
            0
        ]
    error = (ladj - ladj64).abs() / (1 + ladj64.abs())
    assert (error - rounding * slope.flatten(1).norm(dim=-1)).max() <= 1e-4 + case.solver_error


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_autocast_costs_the_networks_digits_alone(case: Case) -> None:
    """Networks compute in half precision; searches, factorisations and what is returned do not."""
    layer = build(case, scale=0.3, dtype=torch.float32)
    x, context = inputs(case, dtype=torch.float32)
    want = layer.forward_and_ladj(x, context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, ladj = layer.forward_and_ladj(x, context)
        back, back_ladj = layer.inverse_and_ladj(y, context)
    assert {t.dtype for t in (y, ladj, back, back_ladj)} == {torch.float32}
    for got, expected in zip((y, ladj, back, back_ladj), (*want, x, -want[1]), strict=True):
        assert got.isfinite().all()
        torch.testing.assert_close(got, expected, rtol=0.1, atol=0.1)
