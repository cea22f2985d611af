"""The contract over every case: log-dets, round trips, shapes, gradients."""

from __future__ import annotations

import mpmath
import pytest
import torch
from cases import CASES, COVERED_ELSEWHERE, Case, build, inputs, norms
from torch import Tensor

from pyro_nf import bijections, distributions, flows, transforms

# Never at the fresh parameters alone: there many wrong formulas are right.
EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
AT_SCALES = pytest.mark.parametrize(
    ("case", "scale"),
    [
        pytest.param(case, scale, id=f"{case.name}-{scale:g}N(0,1)")
        for case in CASES
        for scale in sorted({1.0, min(3.0, case.largest_scale)})
    ],
)


def test_every_public_name_has_a_case() -> None:
    covered = {name for case in CASES for name in case.covers} | set(COVERED_ELSEWHERE)
    public = {
        name
        for module in (bijections, distributions, flows, transforms)
        for name in module.__all__
    }
    assert public - covered == set()
    assert len({case.name for case in CASES}) == len(CASES)


def log_abs_det(jacobian: Tensor) -> float:
    """To 40 digits, so that a badly conditioned Jacobian does not spoil the reference."""
    with mpmath.workdps(40):
        matrix = mpmath.matrix(jacobian.tolist())
        return float(mpmath.log(abs(mpmath.det(matrix))))


def jacobian_of(layer: transforms.FlowTransform, x: Tensor, context: Tensor | None) -> Tensor:
    """∂y/∂x at one row; of a simplex all but its last, redundant coordinate."""
    jacobian = torch.autograd.functional.jacobian(
        lambda v: layer.forward_and_ladj(v, context)[0], x
    )
    return jacobian.reshape(-1, x.numel())[: x.numel()]


def rounding(layer: transforms.FlowTransform, x: Tensor, context: Tensor | None) -> Tensor:
    """How far float64 rounding alone moves x on its way there and back, for each row.

    A map that stretches one direction 1e12 times more than another, or adds a shift 1e12 times
    larger than what x contributes, loses 12 digits whatever computes it. Perturbed networks make
    such maps, so a row's bound grows as ε‖J⁻¹‖(‖y‖ + ‖J‖‖x‖).
    """
    y = layer.forward_and_ladj(x, context)[0]
    rows = []
    for i in range(len(x)):
        jacobian = jacobian_of(layer, x[i], None if context is None else context[i])
        singular = torch.linalg.svdvals(jacobian)
        rows.append((y[i].norm() + singular[0] * x[i].norm()) / singular[-1])
    return 32 * torch.finfo(x.dtype).eps * torch.stack(rows)


@AT_SCALES
def test_log_det_is_autograds(case: Case, scale: float) -> None:
    layer = build(case, scale=scale)
    x, context = inputs(case, (3,))
    y, ladj = layer.forward_and_ladj(x, context)
    want = []
    for i in range(3):
        jacobian = jacobian_of(layer, x[i], None if context is None else context[i])
        want.append(log_abs_det(jacobian))
    slack = rounding(layer, x, context)
    rows = slack < 1  # the others are maps that float64 cannot invert
    assert rows.any()
    assert ((ladj - ladj.new_tensor(want)).abs() - slack)[rows].max() <= 1e-9 + case.solver_error
    back_ladj = layer.inverse_and_ladj(y, context)[1]
    assert ((back_ladj + ladj).abs() - slack)[rows].max() <= 1e-9 + case.solver_error


@AT_SCALES
def test_round_trip(case: Case, scale: float) -> None:
    layer = build(case, scale=scale)
    x, context = inputs(case)
    y = layer.forward_and_ladj(x, context)[0]
    back = layer.inverse_and_ladj(y, context)[0]
    slack = rounding(layer, x, context)
    rows = slack < 1  # the others are maps that float64 cannot invert
    assert rows.any()
    assert (norms(back - x, case) - slack)[rows].max() <= case.inverse_error + case.solver_error
    # However badly conditioned, what comes back maps to the same data.
    again = layer.forward_and_ladj(back, context)[0]
    torch.testing.assert_close(again, y, **{"rtol": 1e-9, "atol": 1e-8} | case.slack)


@EVERY
def test_fresh_layer_is_the_identity(case: Case) -> None:
    layer = build(case)
    x, context = inputs(case)
    y, ladj = layer.forward_and_ladj(x, context)
    if case.fresh_is_identity:
        torch.testing.assert_close(y, x, rtol=0, atol=1e-6)
        torch.testing.assert_close(ladj, torch.zeros_like(ladj), rtol=0, atol=1e-6)


@EVERY
@pytest.mark.parametrize("batch", [(), (0,), (1,), (5,), (2, 5)], ids=str)
def test_batches_of_every_rank(case: Case, batch: tuple[int, ...]) -> None:
    layer = build(case, scale=0.5)
    x, context = inputs(case, batch)
    y, ladj = layer.forward_and_ladj(x, context)
    event = layer.codomain.event_dim
    assert y.shape[: y.ndim - event] == batch
    assert ladj.shape == batch
    back, back_ladj = layer.inverse_and_ladj(y, context)
    assert back.shape == x.shape
    assert back_ladj.shape == batch
    assert y.dtype == ladj.dtype == back.dtype == back_ladj.dtype == torch.float64
    if batch == (2, 5):
        row = layer.forward_and_ladj(x[1, 3], None if context is None else context[1, 3])
        torch.testing.assert_close(y[1, 3], row[0], **case.slack)
        torch.testing.assert_close(ladj[1, 3], row[1], **case.slack)


@EVERY
def test_context_batches_broadcast_aligned_right(case: Case) -> None:
    if not case.context_dim:
        return
    layer = build(case, scale=0.5)
    x, context = inputs(case, (2, 5))
    for c in (context[0], context[:, :1], context[0, 0], context[0, :1]):
        full = c.expand(2, 5, case.context_dim).clone()
        y = layer.forward_and_ladj(x, full)[0]
        for run, value in ((layer.forward_and_ladj, x), (layer.inverse_and_ladj, y)):
            for got, want in zip(run(value, c), run(value, full), strict=True):
                torch.testing.assert_close(got, want, **case.slack)
    y, ladj = layer.forward_and_ladj(x[0], context[:, :1])  # the context's batch is the larger
    assert y.shape[:2] == (2, 5)
    assert ladj.shape == (2, 5)


@EVERY
def test_every_parameter_gets_a_gradient_in_both_directions(case: Case) -> None:
    layer = build(case, scale=0.5)
    if not list(layer.parameters()):
        return
    x, context = inputs(case, (40,))
    y = layer.forward_and_ladj(x, context)[0].detach()
    for run, value in ((layer.forward_and_ladj, x), (layer.inverse_and_ladj, y)):
        layer.zero_grad()
        out, ladj = run(value, context)
        (out.sin().sum() + ladj.sin().sum()).backward()
        for name, parameter in layer.named_parameters():
            if name.endswith("center"):  # by design: see ActNorm
                assert parameter.grad is None
                continue
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            # A masked weight of one dimension reads nothing.
            dead = case.input_dim == 1 and name.endswith("weight")
            assert dead or parameter.grad.abs().sum() > 0, name


@EVERY
def test_the_inverse_has_the_gradients_of_the_inverse_function(case: Case) -> None:
    """Differentiating x = f⁻¹(f(x; θ); θ) leaves nothing for θ and the identity for x."""
    layer = build(case, scale=0.5)
    x, context = inputs(case)
    x.requires_grad_()
    back, back_ladj = layer.inverse_and_ladj(layer.forward_and_ladj(x, context)[0], context)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    leaves = [x, *layer.parameters()]
    grads = torch.autograd.grad((weights * back).sum(), leaves, allow_unused=True)
    error = max(case.inverse_error, case.solver_error)
    torch.testing.assert_close(grads[0], weights, rtol=0, atol=error)
    for grad in grads[1:]:
        if grad is not None:
            torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=error)
    assert back_ladj.shape == (5,)


@EVERY
def test_repr_names_the_layer(case: Case) -> None:
    layer = build(case)
    assert type(layer).__name__ in repr(layer)


@EVERY
def test_wrong_sizes_are_refused_with_fact_and_remedy(case: Case) -> None:
    layer = build(case)
    x, context = inputs(case)
    if layer.input_dim is not None and layer.domain.event_dim:
        with pytest.raises(ValueError, match="expected shape"):
            layer.forward_and_ladj(torch.cat([x, x], -1), context)
    if case.context_dim:
        with pytest.raises(ValueError, match="got no context"):
            layer.forward_shape(x.shape)
        with pytest.raises(ValueError, match="expected shape"):
            layer.condition(context[..., 1:])
        with pytest.raises(ValueError, match="do not broadcast"):
            layer.forward_and_ladj(x, context[:3])
    else:
        assert layer.condition(torch.zeros(2)) is layer
