"""Every case on an accelerator: the same numbers as on the CPU, and no host synchronisation."""

from __future__ import annotations

import guide_models as models
import pytest
import torch
from cases import CASES, VECTOR_FLOWS, Case, build, inputs

from pyro_nf import flows, infer
from pyro_nf.infer.autoguide import AutoFlow

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


@pytest.mark.parametrize("name", sorted(set(VECTOR_FLOWS) - {"circular_nsf"}))
def test_fit_on_an_accelerator(name: str) -> None:
    flow = getattr(flows, name)(3)
    x = torch.randn(2000, 3) @ torch.randn(3, 3)
    result = infer.fit_density(flow, x, device="cuda", max_steps=50, progress=False)
    assert result.validation_losses[-1][1] < result.validation_losses[0][1]
    assert flow().sample((5,)).device.type == "cuda"


@pytest.mark.parametrize("device", ["cuda", None], ids=["moved", "followed"])
def test_fit_a_guide_on_an_accelerator(device: str | None) -> None:
    args = models.Y, models.SIGMA
    if device is None:
        args = tuple(arg.cuda() for arg in args)
    guide = AutoFlow(models.schools)
    fit = infer.fit_guide(
        models.schools, guide, *args, device=device, num_steps=50, final_draws=500, progress=False
    )
    assert fit.elbo > -33
    assert next(guide.parameters()).device.type == "cuda"
    cuda_args = tuple(arg.cuda() for arg in args)
    card = infer.report(models.schools, guide, *cuda_args, fit=fit, num_draws=500)
    assert card.diagnostics.ess > 0.1


def test_fit_a_target_on_an_accelerator() -> None:
    flow = flows.realnvp(2).cuda()
    fit = infer.fit_target(flow, lambda z: -0.5 * z.square().sum(-1), progress=False)
    assert fit.guide().sample((3,)).device.type == "cuda"
    assert abs(fit.log_evidence - 1.8379) < 0.01


@pytest.mark.parametrize("name", ["realnvp", "maf", "nsf"])
def test_a_compiled_flow_on_an_accelerator(name: str) -> None:
    flow = getattr(flows, name)(6).cuda()
    x = torch.randn(256, 6, device="cuda")
    expected = flow().log_prob(x)
    flow.compile(mode="reduce-overhead", dynamic=False)  # CUDA graphs replay fixed shapes
    optimizer = torch.optim.Adam(flow.parameters(), 1e-3, fused=True)
    torch.testing.assert_close(flow().log_prob(x), expected, rtol=1e-4, atol=1e-4)
    for _ in range(5):
        loss = -flow().log_prob(x).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < -expected.mean()
    assert flow().sample((256,)).device.type == "cuda"
