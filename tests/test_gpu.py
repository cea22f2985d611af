"""Every case on an accelerator: the same numbers as on the CPU, and no host synchronisation."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, Case, build, inputs

from pyro_nf import flows, infer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_accelerator_agrees_with_the_cpu(case: Case) -> None:
    layer = build(case, scale=0.5)
    x, context = inputs(case, (64,))
    y, ladj = layer.forward_and_ladj(x, context)
    layer.cuda()
    x, context = x.cuda(), None if context is None else context.cuda()
    torch.cuda.set_sync_debug_mode("default" if case.waits else "error")
    try:
        got = layer.forward_and_ladj(x, context)
        back = layer.inverse_and_ladj(got[0], context)
        if got[0].requires_grad:
            (got[0].sum() + got[1].sum() + back[0].sum()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    near = {"rtol": 1e-9, "atol": 1e-9} | case.slack
    torch.testing.assert_close(got[0].cpu(), y, **near)
    torch.testing.assert_close(got[1].cpu(), ladj, **near)
    torch.testing.assert_close(back[0], x, **{"rtol": 1e-7, "atol": 1e-7} | case.slack)


@pytest.mark.parametrize("name", sorted(set(flows.__all__) - {"circular_nsf"}))
def test_fit_on_an_accelerator(name: str) -> None:
    flow = getattr(flows, name)(3)
    x = torch.randn(2000, 3) @ torch.randn(3, 3)
    result = infer.fit_density(flow, x, device="cuda", max_steps=50, progress=False)
    assert result.validation_losses[-1][1] < result.validation_losses[0][1]
    assert flow().sample((5,)).device.type == "cuda"
