"""Layers under meta tensors, vmap, functional gradients and the compiler."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, Case, build, inputs
from torch import Tensor

EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
# Pyro's names build the same layers, but for those that are given a network.
OURS = pytest.mark.parametrize(
    "case",
    [c for c in CASES if not c.name.startswith("pyro-") or "given" in c.name],
    ids=lambda case: case.name,
)


@EVERY
def test_meta_device_stands_in_for_an_accelerator(case: Case) -> None:
    """A tensor made on the CPU, or a host synchronisation, raises here."""
    layer = build(case).to("meta")
    x, context = inputs(case)
    x, context = x.to("meta"), None if context is None else context.to("meta")
    y, ladj = layer.forward_and_ladj(x, context)
    back, _ = layer.inverse_and_ladj(y, context)
    assert {t.device.type for t in (y, ladj, back)} == {"meta"}
    (y.sum() + ladj.sum() + back.sum()).backward() if y.requires_grad else None


def has(declared: str, direction: str) -> bool:
    return declared in ("both", direction)


def directions(case: Case) -> list:
    layer = build(case, scale=0.5)
    x, context = inputs(case, (4,))
    y = layer.forward_and_ladj(x, context)[0].detach()
    return [
        ("forward", layer.forward_and_ladj, x, context),
        ("inverse", layer.inverse_and_ladj, y, context),
    ]


@EVERY
def test_vmap_over_rows(case: Case) -> None:
    for direction, run, value, context in directions(case):
        arguments = (value,) if context is None else (value, context)
        if not has(case.maps, direction):
            with pytest.raises(RuntimeError):
                torch.vmap(run)(*arguments)
            continue
        mapped = torch.vmap(run)(*arguments)
        for got, want in zip(mapped, run(value, context), strict=True):
            torch.testing.assert_close(got, want)


@OURS
def test_functional_jacobian(case: Case) -> None:
    for _, run, value, context in directions(case):
        row, c = value[0], None if context is None else context[0]
        if not case.traceable:
            with pytest.raises(RuntimeError, match="torch.func"):
                torch.func.jacrev(lambda v, c=c, run=run: run(v, c)[0])(row)
            continue
        jacobian = torch.func.jacrev(lambda v, c=c, run=run: run(v, c)[0])(row)
        want = torch.autograd.functional.jacobian(lambda v, c=c, run=run: run(v, c)[0], row)
        torch.testing.assert_close(jacobian, want)


@OURS
def test_second_derivatives(case: Case) -> None:
    """The Hessian of a sum of outputs agrees with differences of the gradient."""
    for _, run, value, context in directions(case):
        row, c = value[0], None if context is None else context[0]

        def scalar(v: Tensor, c: Tensor | None = c, run=run) -> Tensor:
            out, ladj = run(v, c)
            return out.sin().sum() + ladj

        hessian = torch.autograd.functional.hessian(scalar, row)

        def gradient(v: Tensor, scalar=scalar) -> Tensor:
            v = v.detach().requires_grad_()
            return torch.autograd.grad(scalar(v), v)[0]

        direction = torch.linspace(-1, 1, row.numel(), dtype=row.dtype).reshape(row.shape)
        step = 1e-6
        difference = (gradient(row + step * direction) - gradient(row - step * direction)) / (
            2 * step
        )
        flat = hessian.reshape(row.numel(), row.numel()) @ direction.reshape(-1)
        # A solver's choice of steps jumps where its input moves, so differences see its error.
        near = max(1e-6, 3 * case.solver_error)
        torch.testing.assert_close(flat, difference.reshape(-1), rtol=1e-5, atol=near)


# The compiler is slow, so twins of one code are left out: a context, one dimension, further
# wirings of a bijection, named flows of such layers, and Pyro's names for them.
_WIRED = ("coupling", "maf", "iaf")
_ALL_WIRINGS = ("affine", "rq", "circular", "deep_sigmoidal")
_ALONE = ("flow-nsf-3d", "flow-bnaf-3d", "pyro-affine_autoregressive-given", "pyro-permute")


def is_compiled(case: Case) -> bool:
    if case.name.endswith(("-context", "-1d", "_ends")):
        return False
    kind, _, rest = case.name.partition("-")
    if kind in _WIRED and f"elementwise-{rest}" in NAMES:
        return rest in _ALL_WIRINGS
    return kind not in ("flow", "pyro") or case.name in _ALONE


NAMES = {case.name for case in CASES}
COMPILED = [case for case in CASES if is_compiled(case)]


@pytest.mark.parametrize("case", COMPILED, ids=lambda case: case.name)
def test_compiles_without_a_break(case: Case) -> None:
    for direction, run, value, context in directions(case):
        torch.compiler.reset()
        compiled = torch.compile(run, fullgraph=True, backend="eager")
        if not has(case.compiles, direction):
            with pytest.raises(torch._dynamo.exc.Unsupported):
                compiled(value, context)
            continue
        for got, want in zip(compiled(value, context), run(value, context), strict=True):
            torch.testing.assert_close(got, want)


@OURS
def test_forward_mode_agrees_with_the_jacobian(case: Case) -> None:
    for _, run, value, context in directions(case):
        row, c = value[0], None if context is None else context[0]
        if not case.traceable:
            with (
                torch.autograd.forward_ad.dual_level(),
                pytest.raises(RuntimeError, match="forward mode"),
            ):
                run(row, c)
            continue
        tangent = torch.linspace(-1, 1, row.numel(), dtype=row.dtype).reshape(row.shape)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(row, tangent)
            out = torch.autograd.forward_ad.unpack_dual(run(dual, c)[0]).tangent
        jacobian = torch.autograd.functional.jacobian(lambda v, c=c, run=run: run(v, c)[0], row)
        want = jacobian.reshape(-1, row.numel()) @ tangent.reshape(-1)
        torch.testing.assert_close(out.reshape(-1), want)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_builds_on_the_default_device(case: Case) -> None:
    with torch.device("meta"):
        layer = case.build()
    tensors = [*layer.parameters(), *layer.buffers()]
    assert all(t.device.type == "meta" for t in tensors)
