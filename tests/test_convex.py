"""Convex potentials: gradient maps, log-determinants, the minimisation, optimal transport."""

from __future__ import annotations

import math

import pytest
import torch
from case import perturb
from test_convex_network import network, points
from test_densities import integral
from torch import Tensor, nn

from pyro_nf import flows
from pyro_nf.bijections import ConvergenceError, Root
from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.nn import ConvexMLP
from pyro_nf.nn._convex import Hessian, activations, gradient_at
from pyro_nf.transforms import ConvexPotential
from pyro_nf.transforms._convex.log_det import exact_log_det, quadrature, stochastic_log_det
from pyro_nf.transforms._convex.solves import conjugate_gradients, iterative_solver

torch.set_num_threads(1)


def factors(
    input_dim: int, columns: int, scale: float = 0.3, copies: int = 1
) -> tuple[Hessian, Tensor]:
    """The Hessians of a network at some points, with the points, all of them several times."""
    made = network(input_dim, (32, 16), scale)
    x = points(input_dim, columns).repeat_interleave(copies, 1)
    values = made.values(None, x.shape[1:])
    return gradient_at(values, x, activations(values, x))[1], x


# --------------------------------------------------------------------------------- the solves


def test_the_factors_multiply_like_the_matrices() -> None:
    hessian, x = factors(5, 6)
    vectors = points(5, 6, seed=3)
    want = (hessian.matrix() @ vectors.t()[..., None]).squeeze(-1).t()
    torch.testing.assert_close(hessian.product(vectors), want)
    assert all(
        a is b for a, b in zip(Hessian.unflat(hessian.flat()).flat(), hessian.flat(), strict=True)
    )


def test_conjugate_gradients() -> None:
    hessian, _ = factors(20, 6)
    columns = points(20, 6, seed=3).index_fill_(1, torch.tensor([2]), math.nan)
    columns[:, 4] = 0
    got = conjugate_gradients(hessian, columns)
    want = torch.linalg.solve(hessian.matrix(), columns.t()[..., None]).squeeze(-1).t()
    torch.testing.assert_close(got[:, [0, 1, 3, 4, 5]], want[:, [0, 1, 3, 4, 5]])
    assert got[:, 2].isnan().all()


def test_the_iterative_solve_is_differentiable_by_the_right_hand_side() -> None:
    hessian, _ = factors(4, 3)
    solve, columns = iterative_solver(hessian), points(4, 3, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(solve, columns, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda b: solve(b).sin(), columns)
    mapped = torch.vmap(solve)(torch.stack([columns, 2 * columns]))
    torch.testing.assert_close(mapped[1], solve(2 * columns))


# -------------------------------------------------------------------------- log-determinants


@pytest.mark.parametrize("size", [1, 2, 4, 5, 20])
def test_exact_log_det(size: int) -> None:
    hessian, _ = factors(size, 6)
    torch.testing.assert_close(exact_log_det(hessian), torch.logdet(hessian.matrix()))


def test_a_matrix_that_is_not_positive_has_no_log_det() -> None:
    hessian, _ = factors(6, 4)
    broken = hessian._replace(strength=torch.full_like(hessian.strength, -100.0))
    assert exact_log_det(broken).isnan().all()


def test_full_lanczos_is_exact() -> None:
    """With D steps the quadrature is, whatever the probe."""
    hessian, _ = factors(12, 5)
    probe = points(12, 5, seed=3)
    values, vectors = torch.linalg.eigh(hessian.matrix())
    parts = (vectors.mT @ probe.t()[..., None]).squeeze(-1)
    want = (parts.square() * values.log()).sum(-1)
    torch.testing.assert_close(quadrature(hessian, probe, 12), want)


def test_lanczos_in_an_invariant_subspace() -> None:
    hessian, _ = factors(12, 5)
    flat = hessian._replace(bends=tuple(torch.zeros_like(bend) for bend in hessian.bends))
    want = 12 * flat.strength.log().expand(5)
    got = quadrature(flat, torch.ones(12, 5, dtype=torch.float64), 8)
    torch.testing.assert_close(got, want)


def test_lanczos_meets_the_exact_log_det_within_its_own_error() -> None:
    torch.manual_seed(0)
    hessian, x = factors(80, 3, copies=200)
    exact = exact_log_det(hessian)[::200]
    spread = []
    for probes in (1, 4):
        draws = stochastic_log_det(hessian, x, probes=probes, steps=20).detach().view(3, 200)
        spread.append(draws.std(1))
        assert ((draws.mean(1) - exact).abs() < 4 * spread[-1] / 200**0.5).all()
    assert (spread[0] < 0.2 * exact.abs() + 5).all()
    torch.testing.assert_close(spread[1], spread[0] / 2, rtol=0.3, atol=0)


def test_gradient_of_the_estimate_is_unbiased() -> None:
    torch.manual_seed(0)
    made, x = network(6, (8, 5), 0.5), points(6, 3)
    parameters = [p for n, p in made.named_parameters() if n != "tilt"]

    def gradient(*, steps: int | None) -> Tensor:
        values = made.values(None, x.shape[1:])
        hessian = gradient_at(values, x, activations(values, x))[1]
        if steps is None:
            total = exact_log_det(hessian).sum()
        else:
            total = stochastic_log_det(hessian, x, probes=1, steps=steps).sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)])

    draws = torch.stack([gradient(steps=2) for _ in range(200)])  # few steps: a biased value
    z = (draws.mean(0) - gradient(steps=None)) / (draws.std(0) / 200**0.5 + 1e-12)
    assert z.abs().max() < 4.5
    assert z.square().mean() < 1.8


def test_second_derivatives_of_the_estimate_are_unbiased() -> None:
    torch.manual_seed(0)
    hessian, x = factors(4, 1, scale=0.7, copies=2000)
    scale = torch.ones(2000, dtype=torch.float64, requires_grad=True)
    hessian = hessian.detach()

    def scaled() -> Hessian:
        return hessian._replace(bends=tuple(bend * scale.exp() for bend in hessian.bends))

    def second(value: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(value.sum(), scale, create_graph=True)
        return torch.autograd.grad(first.sum(), scale)[0]

    exact = second(exact_log_det(scaled()))[0]
    draws = second(stochastic_log_det(scaled(), x, probes=1, steps=4))
    assert (draws.mean() - exact).abs() < 4 * draws.std() / 2000**0.5


def test_automatic_estimates_only_in_training_and_in_many_dimensions() -> None:
    torch.manual_seed(0)
    layer = ConvexPotential(70, fast="log_prob", hidden_dims=(16,)).double()
    y = points(3, 70)
    first, second = layer.inverse_and_ladj(y)[1], layer.inverse_and_ladj(y)[1]
    assert not torch.equal(first, second)
    assert layer.solver == "lbfgs"
    layer.eval()
    jacobian = torch.autograd.functional.jacobian(lambda v: layer.inverse_and_ladj(v)[0], y[0])
    torch.testing.assert_close(layer.inverse_and_ladj(y[0])[1], torch.logdet(jacobian))
    small = ConvexPotential(3, fast="log_prob")
    x = torch.randn(4, 3)
    assert torch.equal(small.inverse_and_ladj(x)[1], small.inverse_and_ladj(x)[1])


# -------------------------------------------------------------------------------- the inverse


@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
@pytest.mark.parametrize("size", [1, 4, 20])
def test_the_minimisation_finds_the_root(solver: str, size: int) -> None:
    layer = ConvexPotential(size, fast="sample", hidden_dims=(32, 32), solver=solver).double()
    perturb(layer, 1.0)
    x = 2 * points(100, size)
    y, ladj = layer.forward_and_ladj(x)
    back, back_ladj = layer.inverse_and_ladj(y)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-10)
    torch.testing.assert_close(back_ladj, -ladj, rtol=0, atol=1e-8)


def test_the_two_searches_agree_in_many_dimensions() -> None:
    layer = ConvexPotential(80, fast="log_prob", log_det="exact").double()
    perturb(layer, 0.5)
    x = points(6, 80)
    by_gradients = layer.forward_and_ladj(x)[0]
    layer.solver = "newton"
    torch.testing.assert_close(by_gradients, layer.forward_and_ladj(x)[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(layer.inverse_and_ladj(by_gradients)[0], x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
def test_far_targets(solver: str) -> None:
    layer = ConvexPotential(3, fast="sample", solver=solver).double()
    perturb(layer, 0.5)
    x = points(5, 3) * torch.tensor([1e-8, 1.0, 1e3, 1e6, 1e9])[:, None]
    back = layer.inverse_and_ladj(layer.forward_and_ladj(x)[0])[0]
    torch.testing.assert_close(back, x, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
def test_gradients_through_the_inverse(solver: str) -> None:
    layer = ConvexPotential(
        3, fast="log_prob", hidden_dims=(4, 3), context_dim=2, solver=solver
    ).double()
    perturb(layer, 0.3)
    inputs = (points(2, 3).requires_grad_(), points(2, 2, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(layer.forward_and_ladj, inputs)
    assert torch.autograd.gradgradcheck(
        lambda x, c: layer.forward_and_ladj(x, c)[0], inputs, fast_mode=True
    )

    def of_parameters(*values: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(names, values, strict=True))
        return torch.func.functional_call(Both(layer), named, tuple(v.detach() for v in inputs))

    names, values = zip(*Both(layer).named_parameters(), strict=True)
    assert torch.autograd.gradcheck(of_parameters, values, fast_mode=True)


class Both(nn.Module):
    """The slow direction as a module's forward."""

    def __init__(self, layer: ConvexPotential) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer.forward_and_ladj(x, context)


@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
def test_rows_do_not_meet(solver: str) -> None:
    layer = ConvexPotential(3, fast="sample", solver=solver).double()
    perturb(layer, 1.0)
    y = points(6, 3)
    together = layer.inverse_and_ladj(y)[0]
    for i in range(6):
        torch.testing.assert_close(layer.inverse_and_ladj(y[i])[0], together[i])
    y[2, 1] = math.nan
    y[4, 0] = math.inf
    spoiled = layer.inverse_and_ladj(y)[0]
    assert spoiled[[2, 4]].isnan().all()
    torch.testing.assert_close(spoiled[[0, 1, 3, 5]], together[[0, 1, 3, 5]])


@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
def test_a_root_that_is_not_found_is_an_error(solver: str) -> None:
    layer = ConvexPotential(3, fast="sample", solver=solver, root=Root(iterations=2)).double()
    perturb(layer, 1.0)
    y = 10 * points(4, 3)
    with pytest.raises(ConvergenceError, match=r"ConvexPotential found no inverse for \d of 4"):
        layer.inverse_and_ladj(y)
    assert torch.vmap(lambda row: layer.inverse_and_ladj(row)[0])(y).isnan().any()


# ----------------------------------------------------------------------------------- densities


@pytest.mark.parametrize("fast", ["log_prob", "sample"])
def test_two_dimensional_density_integrates_to_one(fast: str) -> None:
    torch.manual_seed(0)
    flow = flows.convex_potential(2, transforms=2, hidden_dims=(8, 6), fast=fast).double()
    perturb(flow, 0.3)
    points = 400 if fast == "log_prob" else 150
    assert integral(flow, 12.0, points).item() == pytest.approx(1.0, abs=1e-3)


def test_a_fit_between_gaussians_finds_the_optimal_transport_map() -> None:
    """From N(0, S) to N(0, I) it is x = S^(-1/2) y: of all roots of S⁻¹ the symmetric one."""
    torch.manual_seed(0)
    root = torch.tensor([[1.2, 0.5], [0.5, 0.7]])  # S^(1/2)
    flow = Flow(DiagonalNormal(2), ConvexPotential(2, fast="log_prob", hidden_dims=(32,)))
    flow.base.requires_grad_(requires_grad=False)
    optimiser = torch.optim.Adam(flow.transform.parameters(), 2e-2)
    for step in range(300):
        optimiser.param_groups[0]["lr"] = 2e-2 * (1 - step / 300)
        optimiser.zero_grad()
        loss = -flow().log_prob(torch.randn(256, 2) @ root).mean()
        loss.backward()
        optimiser.step()
    y = torch.randn(1000, 2) @ root
    x = flow.transform.inv(y)
    want = y @ root.inverse()
    assert (x - want).square().mean().sqrt() < 0.12


# -------------------------------------------------------------------------------------- errors


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="fast='forward'.*'log_prob', 'sample'"):
        ConvexPotential(3, fast="forward")
    with pytest.raises(ValueError, match="log_det='hutchinson'"):
        ConvexPotential(3, fast="sample", log_det="hutchinson")
    with pytest.raises(ValueError, match="solver='cg'"):
        ConvexPotential(3, fast="sample", solver="cg")
    with pytest.raises(ValueError, match=r"hidden_dims=\(\).*at least one width"):
        ConvexPotential(3, fast="sample", hidden_dims=())
    with pytest.raises(ValueError, match="probes=0"):
        ConvexPotential(3, fast="sample", probes=0)
    with pytest.raises(TypeError, match="root=100.*Root"):
        ConvexPotential(3, fast="sample", root=100)
    with pytest.raises(ValueError, match=r"sharpness=0.*above 0"):
        flows.convex_potential(2, sharpness=0)
    with pytest.raises(ValueError, match="transforms=0"):
        flows.convex_potential(2, transforms=0)
    with pytest.raises(ValueError, match="features lead"):
        ConvexMLP(3)(torch.zeros(5, 3))
