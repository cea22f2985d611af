"""The integral of a positive network: its quadrature, its ends, its inverse, its flow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import grad, gradcheck, gradgradcheck

from pyro_nf import flows, infer
from pyro_nf.bijections import UnconstrainedMonotonic

torch.set_num_threads(1)

UMNN = UnconstrainedMonotonic(units=4, bound=3.0)


def inputs(bijection, rows, *, spread=2.0, scale=1.0):
    generator = torch.Generator().manual_seed(rows)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return spread * draw(rows), scale * draw(bijection.param_count, rows)


def at_the_bounds(bijection: UnconstrainedMonotonic, rows: int) -> Tensor:
    """Parameters that push every unit to its steepest, half of all elements to one centre."""
    params = inputs(bijection, rows, scale=100.0)[1]
    units = bijection.units
    params[2 + units : 2 + 2 * units] = 100.0
    grid = torch.linspace(-bijection.bound, bijection.bound, units, dtype=params.dtype)
    offset = -grid[:, None].expand(units, rows // 2)
    params[2 + 2 * units :, : rows // 2] = offset / (1 - offset.abs() / bijection.bound - 1e-9)
    params[2 : 2 + units, : rows // 4] = 100.0  # steps that all go up
    return params


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_log_derivative_is_autograds(scale):
    x, params = inputs(UnconstrainedMonotonic(), 500, scale=scale)
    x.requires_grad_()
    y, ladj = UnconstrainedMonotonic().forward(x, params)
    (slope,) = grad(y.sum(), x)
    torch.testing.assert_close(ladj, slope.log(), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("nodes", "error"), [(24, 1e-4), (32, 3e-7), (40, 1e-9), (48, 1e-11)])
def test_quadrature_converges_at_the_worst_parameters(nodes, error):
    """What the docstring's table says."""
    umnn = UnconstrainedMonotonic(nodes=nodes)
    params = at_the_bounds(umnn, 2000)
    x = torch.linspace(-3, 3, 2000, dtype=torch.float64)[torch.randperm(2000)].requires_grad_()
    y, ladj = umnn.forward(x, params)
    (slope,) = grad(y.sum(), x)
    assert (slope.log() - ladj).abs().max() < error


def test_value_is_the_integral_of_the_slope():
    """Against a rule of another kind, with very many nodes."""
    x, params = inputs(UMNN, 20)
    y = UMNN.forward(x, params)[0]
    steps = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None]
    slopes = UMNN.forward(steps * x, params[:, None].expand(-1, 4001, -1))[1].exp()
    simpson = torch.ones(4001, 1, dtype=torch.float64)
    simpson[1:-1:2], simpson[2:-1:2] = 4, 2
    # Simpson's rule loses digits where the slope has a kink, at the bound.
    want = params[0] + x * (simpson * slopes).sum(0) / 12000
    torch.testing.assert_close(y, want, rtol=1e-7, atol=1e-7)


def test_zero_parameters_are_the_identity_with_units_that_differ():
    x = torch.linspace(-9, 9, 50, dtype=torch.float64)
    params = torch.zeros(UMNN.param_count, 50, dtype=torch.float64, requires_grad=True)
    y, ladj = UMNN.forward(x, params)
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(ladj, torch.zeros_like(ladj))
    (slope,) = grad((y * x.sin()).sum(), params)
    units = slope[2:6].sum(1)
    assert len(set(units.tolist())) == 4


def test_continues_straight_beyond_the_bound():
    x = torch.tensor([-1e6, -100.0, -3.0, 3.0, 100.0, 1e6])
    params = inputs(UMNN, 1, scale=1.0)[1].float().expand(-1, 6)
    y, ladj = UMNN.forward(x, params)
    exact = UMNN.forward(x.double(), params.double())
    for got, want in zip((y, ladj), exact, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    assert ladj[0] == ladj[2]
    assert ladj[-1] == ladj[3]
    torch.testing.assert_close(y[-1] - y[3], (x[-1] - x[3]) * ladj[3].exp())
    back, _ = UMNN.inverse(y, params)
    torch.testing.assert_close(back, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 3.0, 30.0])
def test_inverse_undoes_forward(scale):
    x, params = inputs(UMNN, 500, scale=scale)
    y, ladj = UMNN.forward(x, params)
    back, back_ladj = UMNN.inverse(y, params)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-8)
    torch.testing.assert_close(back_ladj, -ladj, rtol=0, atol=1e-8)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_first_and_second_derivatives(direction):
    umnn = UnconstrainedMonotonic(units=2, nodes=32)
    x, params = inputs(umnn, 3, spread=1.0, scale=0.5)
    values = (x.requires_grad_(), params.requires_grad_())
    assert gradcheck(getattr(umnn, direction), values)
    assert gradgradcheck(getattr(umnn, direction), values, fast_mode=True)


def test_inference_mode_spoils_no_constants():
    umnn = UnconstrainedMonotonic(nodes=17)
    x, params = inputs(umnn, 3)
    with torch.inference_mode():
        umnn.forward(x, params)
    umnn.forward(x, params.requires_grad_())[0].sum().backward()


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="units=0"):
        UnconstrainedMonotonic(units=0)
    with pytest.raises(ValueError, match="nodes=-3"):
        UnconstrainedMonotonic(nodes=-3)
    with pytest.raises(ValueError, match="nodes=15, too few .* Pass at least 16"):
        UnconstrainedMonotonic(nodes=15)
    with pytest.raises(ValueError, match="bound=0"):
        flows.umnn(2, bound=0)
    with pytest.raises(TypeError, match="nodes=1.5"):
        flows.umnn(2, nodes=1.5)


def test_density_integrates_to_one():
    torch.manual_seed(0)
    flow = flows.umnn(2, transforms=2, nodes=24, hidden_dims=(8,), activation="tanh").double()
    for parameter in flow.parameters():
        parameter.data.normal_(0, 0.2)
    with torch.no_grad():
        assert flow().sample((5000,)).abs().max() < 20
    grid = torch.linspace(-24, 24, 161, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    with torch.no_grad():
        log_prob = flow().log_prob(points).view(161, 161)
    total = torch.trapezoid(torch.trapezoid(log_prob.exp(), grid), grid)
    assert abs(total.item() - 1) < 1e-3


def test_fits_two_modes_in_one_dimension():
    generator = torch.Generator().manual_seed(0)
    side = torch.randint(0, 2, (2000, 1), generator=generator) * 4.0 - 2.0
    x = side + 0.5 * torch.randn(2000, 1, generator=generator)
    flow = flows.umnn(1)
    infer.fit_density(flow, x, max_steps=150, learning_rate=0.04, progress=False)
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.25) + math.log(2)
    with torch.no_grad():
        loss = -flow().log_prob(x).mean().item()
        draws = flow().sample((2000,))
    assert loss < entropy + 0.05
    assert abs(np.mean(draws.numpy() > 0) - 0.5) < 0.1
