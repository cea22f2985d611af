"""Vector bijections and their wiring: known maps, exact inverses, contexts."""

from __future__ import annotations

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

from pyro_nf import bijections as B  # noqa: N812
from pyro_nf import flows
from pyro_nf import transforms as T  # noqa: N812

torch.set_num_threads(1)

BIJECTIONS = {
    "planar": B.Planar(),
    "radial": B.Radial(),
    "sylvester": B.Sylvester(),
    "sylvester_narrow": B.Sylvester(units=2),
    "sylvester_householder": B.Sylvester("householder"),
    "sylvester_triangular": B.Sylvester("triangular", order="reversed"),
    "householder": B.Householder(4),
    "rotation": B.Rotation(),
    "cayley": B.Rotation("cayley"),
    "diagonal": B.DiagonalScale(),
    "triangular": B.TriangularAffine(),
    "lu": B.LULinear(seed=3),
    "qr": B.QRLinear(),
    "exponential": B.MatrixExponential(),
    "woodbury": B.Woodbury(rank=2),
}
EVERY = pytest.mark.parametrize("name", BIJECTIONS)
LINEAR = ["householder", "rotation", "cayley", "diagonal", "triangular"] + [
    "lu",
    "qr",
    "exponential",
    "woodbury",
]


def randomized(module: nn.Module, scale: float = 1.0, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.double().parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(scale * noise)
    return module


def joint(name: str, size: int, scale: float = 1.0, **options: int) -> T.Joint:
    torch.manual_seed(0)
    return randomized(T.Joint(BIJECTIONS[name], size, **options), scale)


def draws(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Back(nn.Module):
    """A layer's inverse pass as a module's call."""

    def __init__(self, layer: T.FlowTransform) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer.inverse_and_ladj(y, context)


def matrix_of(layer: T.FlowTransform, size: int) -> Tensor:
    offset = layer(torch.zeros(size, dtype=torch.float64))
    return (layer(torch.eye(size, dtype=torch.float64)) - offset).mT.detach()


def test_planar_is_the_papers_map() -> None:
    layer = joint("planar", 3)
    w, u, b = (layer.get_parameter(name).detach() for name in ("weight", "scale", "bias"))
    inner = w @ u
    slope = inner + (1 + inner**2).sqrt()
    hat = u + (slope - 1 - inner) * w / w.square().sum()
    x = draws(7, 3)
    h = torch.tanh(x @ w + b)
    y, ladj = layer.forward_and_ladj(x)
    torch.testing.assert_close(y, x + h[:, None] * hat)
    torch.testing.assert_close(ladj, torch.log(1 + (1 - h**2) * (w @ hat)))


@pytest.mark.parametrize("scale", [1e-8, 1.0, 10.0, 300.0])
def test_every_planar_parameter_makes_an_invertible_map(scale: float) -> None:
    for seed in range(20):
        layer = randomized(T.Joint(B.Planar(), 3), scale, seed)
        x = draws(50, 3, seed=seed)
        y, ladj = layer.forward_and_ladj(x)
        assert ladj.isfinite().all()
        back = layer.inverse_and_ladj(y)[0]
        again = layer.forward_and_ladj(back)[0]
        torch.testing.assert_close(again, y, rtol=1e-9, atol=1e-9)


def test_planar_is_smooth_where_the_weight_is_zero() -> None:
    layer = joint("planar", 3)
    layer.weight.data.zero_()
    y, ladj = layer.forward_and_ladj(draws(5, 3))
    (y.sum() + ladj.sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_one_sylvester_unit_is_a_planar_map() -> None:
    narrow = randomized(T.Joint(B.Sylvester(units=1), 4))
    planar = T.Joint(B.Planar(), 4).double()
    direction = narrow.basis.data[:, 0] / narrow.basis.data.norm()
    planar.weight.data = direction * narrow.right.data
    planar.scale.data = direction * narrow.left.data
    planar.bias.data = narrow.bias.data[0]
    x = draws(6, 4)
    for got, want in zip(narrow.forward_and_ladj(x), planar.forward_and_ladj(x), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("form", ["orthogonal", "householder", "triangular"])
def test_sylvester_keeps_the_complement_of_its_columns(form: str) -> None:
    bijection = B.Sylvester(form, units=2)
    layer = randomized(T.Joint(bijection, 5))
    x = draws(6, 5)
    params = {name: value.detach() for name, value in layer.named_parameters()}
    basis = bijection._basis(x.mT, params)
    eye = torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(basis.mT @ basis, eye, rtol=0, atol=1e-14)
    change = layer(x) - x
    torch.testing.assert_close(change @ basis @ basis.mT, change)


def test_sylvester_keeps_its_columns_where_they_depend_on_each_other() -> None:
    basis = B.Sylvester()._basis(draws(3, 2), {"basis": torch.eye(3, 2).double() * draws(2) * 0})
    torch.testing.assert_close(basis.mT @ basis, torch.eye(2).double())


def test_radial_is_the_papers_map() -> None:
    layer = joint("radial", 3)
    center = layer.origin.detach()
    raw_radius, raw_factor = layer.raw_radius.item(), layer.raw_factor.item()
    alpha = raw_radius + math.hypot(1, raw_radius)
    beta = alpha * (raw_factor + math.hypot(1, raw_factor) - 1)
    x = draws(7, 3)
    r = (x - center).norm(dim=-1)
    y, ladj = layer.forward_and_ladj(x)
    torch.testing.assert_close(y, x + beta / (alpha + r)[:, None] * (x - center))
    one = 1 + beta / (alpha + r)
    want = 2 * one.log() + torch.log(one - beta * r / (alpha + r) ** 2)
    torch.testing.assert_close(ladj, want)


def test_radial_at_its_centre() -> None:
    layer = joint("radial", 3)
    x = layer.origin.detach().clone().requires_grad_()
    y, ladj = layer.forward_and_ladj(x)
    torch.testing.assert_close(y, x)
    back, back_ladj = layer.inverse_and_ladj(y)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(back_ladj, -ladj)
    (back.sum() + back_ladj).backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e8])
@pytest.mark.parametrize("name", ["planar", "radial", "sylvester"])
def test_single_precision_far_from_the_origin(name: str, scale: float) -> None:
    layer = joint(name, 3).float()
    x = (scale * draws(50, 3)).float()
    back = layer.inverse_and_ladj(layer.forward_and_ladj(x)[0])[0]
    torch.testing.assert_close(back, x, rtol=2e-6, atol=0)


@pytest.mark.parametrize("name", ["planar", "radial", "sylvester", "sylvester_householder"])
def test_the_inverse_is_twice_differentiable_in_everything(name: str) -> None:
    layer = joint(name, 2, 0.5, context_dim=1, hidden_dims=(), activation="tanh")
    names = [key for key, _ in layer.named_parameters()]
    values = [value.detach().requires_grad_() for value in layer.parameters()]

    def run(y: Tensor, context: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        state = {f"layer.{key}": value for key, value in zip(names, parameters, strict=True)}
        return torch.func.functional_call(Back(layer), state, (y, context))

    inputs = (draws(2, 2).requires_grad_(), draws(2, 1, seed=5).requires_grad_(), *values)
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def test_cayleys_map_is_cayleys() -> None:
    layer = joint("cayley", 4)
    lower = torch.zeros(4, 4, dtype=torch.float64)
    lower[tuple(torch.tril_indices(4, 4, -1))] = layer.lower.detach()
    skew, eye = lower - lower.T, torch.eye(4, dtype=torch.float64)
    matrix = matrix_of(layer, 4)
    torch.testing.assert_close(matrix, torch.linalg.inv(eye + skew) @ (eye - skew))
    torch.testing.assert_close(matrix @ matrix.T, eye)
    torch.testing.assert_close(torch.linalg.det(matrix), eye[0, 0])


def test_matrix_exponential_is_the_exponential() -> None:
    layer = joint("exponential", 4)
    weight = layer.weight.detach()
    bounded = weight / (1 + weight.square().mean() / 25).sqrt()
    matrix = matrix_of(layer, 4)
    torch.testing.assert_close(matrix, torch.linalg.matrix_exp(bounded / 2))
    ladj = layer.forward_and_ladj(draws(4))[1]
    torch.testing.assert_close(ladj, torch.linalg.slogdet(matrix)[1])


def test_woodbury_is_a_diagonal_plus_low_rank() -> None:
    layer = joint("woodbury", 6)
    matrix = matrix_of(layer, 6)
    low = matrix - torch.diag(layer.log_scale.detach().exp())
    assert (torch.linalg.svdvals(low)[2:] < 1e-12).all()
    assert (torch.linalg.svdvals(low)[:2] > 1e-3).all()
    ladj = layer.forward_and_ladj(draws(6))[1]
    torch.testing.assert_close(ladj, torch.linalg.slogdet(matrix)[1])


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e6])
@pytest.mark.parametrize("name", ["exponential", "woodbury"])
def test_exponentials_of_any_size_can_be_inverted(name: str, scale: float) -> None:
    layer = joint(name, 8)
    for key in ("weight", "left", "right"):
        if hasattr(layer, key):
            getattr(layer, key).data.mul_(scale)
    x = draws(20, 8)
    back = layer.inverse_and_ladj(layer.forward_and_ladj(x)[0])[0]
    torch.testing.assert_close(back, x, rtol=1e-6, atol=1e-6)


@EVERY
@pytest.mark.parametrize("size", [1, 2, 5])
def test_any_number_of_dimensions(name: str, size: int) -> None:
    for context_dim in (0, 2):
        layer = joint(name, size, 0.3, context_dim=context_dim)
        x, context = draws(4, size), draws(4, context_dim) if context_dim else None
        y, ladj = layer.forward_and_ladj(x, context)
        back, back_ladj = layer.inverse_and_ladj(y, context)
        torch.testing.assert_close(back, x)
        torch.testing.assert_close(back_ladj, -ladj)
        if size == 1:
            order = x[:, 0].argsort()
            moved = layer.forward_and_ladj(x[order], None if context is None else context[:1])[0]
            assert (moved.diff(dim=0).sign() == layer.sign).all()


@EVERY
def test_a_context_means_parameters_of_its_own(name: str) -> None:
    """Each row is mapped by the layer whose constants are the parameters of its context."""
    layer = joint(name, 3, 0.4, context_dim=2)
    constant = joint(name, 3)
    x, context = draws(6, 4, 3), draws(4, 2, seed=8)
    y, ladj = layer.forward_and_ladj(x, context)
    for i in range(4):
        with torch.no_grad():
            made = layer._params(context[i])
            for key, parameter in constant.named_parameters():
                parameter.copy_(made[key])
        want_y, want_ladj = constant.forward_and_ladj(x[:, i])
        torch.testing.assert_close(y[:, i], want_y)
        torch.testing.assert_close(ladj[:, i], want_ladj)


@EVERY
def test_the_network_reads_each_context_once(name: str) -> None:
    layer = joint(name, 3, 0.4, context_dim=2)
    seen = []
    layer.network.register_forward_hook(lambda module, args, out: seen.append(args[0].shape))
    y, _ = layer.forward_and_ladj(draws(7, 5, 3), draws(5, 2))
    layer.inverse_and_ladj(y, draws(5, 2))
    assert seen == [(2, 5), (2, 5)]


@pytest.mark.parametrize("name", ["planar", "radial", "sylvester", "cayley", "woodbury"])
def test_maps_over_an_ensemble_of_parameters(name: str) -> None:
    layers = [joint(name, 3, scale, context_dim=2) for scale in (0.2, 0.4, 0.6)]
    x, context = draws(5, 3), draws(5, 2, seed=8)
    state, buffers = torch.func.stack_module_state(layers)

    def run(parameters: dict[str, Tensor], constants: dict[str, Tensor]) -> tuple[Tensor, ...]:
        tensors = {f"layer.{key}": value for key, value in (parameters | constants).items()}
        return torch.func.functional_call(Back(layers[0]), tensors, (x, context))

    got, got_ladj = torch.vmap(run)(state, buffers)
    for i, layer in enumerate(layers):
        want, want_ladj = layer.inverse_and_ladj(x, context)
        torch.testing.assert_close(got[i], want)
        torch.testing.assert_close(got_ladj[i], want_ladj)


@pytest.mark.parametrize("name", LINEAR)
def test_pushes_a_standard_normal_to_the_normal_of_its_context(name: str) -> None:
    layer = joint(name, 3, 0.4, context_dim=2)
    context, y = draws(4, 2, seed=8), draws(4, 3)
    base = dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1)
    got = dist.ConditionalTransformedDistribution(base, [layer]).condition(context).log_prob(y)
    for i in range(4):
        bound = layer.condition(context[i])
        matrix = matrix_of(bound, 3)
        offset = bound(torch.zeros(3, dtype=torch.float64)).detach()
        want = dist.MultivariateNormal(offset, matrix @ matrix.mT).log_prob(y[i])
        torch.testing.assert_close(got[i], want)


def test_priors_on_named_parameters() -> None:
    layer = PyroModule[T.TriangularAffine](3)
    layer.log_scale = PyroSample(dist.Normal(torch.zeros(3), 0.1).to_event(1))
    bound = layer.condition(None)
    x = torch.randn(5, 3)
    torch.testing.assert_close(bound.inv(bound(x)), x)
    trace = pyro.poutine.trace(lambda: layer.condition(None)).get_trace()
    assert "log_scale" in trace.stochastic_nodes[0]


@pytest.mark.parametrize("fast", ["log_prob", "sample"])
@pytest.mark.parametrize("name", ["planar", "radial", "sylvester"])
def test_named_flows_are_densities(name: str, fast: str) -> None:
    flow = getattr(flows, name)(2, transforms=3, fast=fast).double()
    randomized(flow.transform, 0.7)
    grid = torch.linspace(-20, 20, 401, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    with torch.no_grad():
        flow.transform.parts[-1].log_scale.zero_()
        total = flow().log_prob(points).exp().sum() * (grid[1] - grid[0]) ** 2
    torch.testing.assert_close(total.item(), 1.0, rtol=0, atol=1e-3)


def test_batch_normalisation_takes_a_context() -> None:
    layer = randomized(T.BatchNorm(3, context_dim=2))
    y, context = draws(40, 5, 3), draws(5, 2, seed=8)
    x, ladj = layer.inverse_and_ladj(y, context)
    assert x.shape == (40, 5, 3)
    assert ladj.shape == (40, 5)
    torch.testing.assert_close(layer.running_mean, 0.1 * y.mean((0, 1)))
    # The context scales and shifts what the batch has normalised.
    plain = (y - y.mean((0, 1))) / (y.var((0, 1), correction=0) + layer.eps).sqrt()
    scale, shift = layer.network(context.mT).mT.chunk(2, -1)
    want = plain * (layer.log_gamma + scale).exp() + layer.beta + shift
    torch.testing.assert_close(x, want)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: T.Joint(B.Affine(), 3), TypeError, "scalar ones go to Elementwise"),
        (lambda: T.Joint(B.Planar, 3), TypeError, r"Planar for a vector.*Pass an instance"),
        (lambda: T.Joint(B.Planar(), 0), ValueError, "Joint got input_dim=0"),
        (lambda: T.Joint(B.Planar(), 2, context_dim=-1), ValueError, "context_dim=-1"),
        (lambda: B.Sylvester("qr"), ValueError, "Pass one of 'orthogonal'"),
        (lambda: B.Sylvester(units=0), ValueError, "Sylvester got units=0"),
        (lambda: replace(B.Sylvester(), reflections=0), ValueError, "reflections=0"),
        (lambda: B.Rotation("euler"), ValueError, "Rotation got method='euler'"),
        (lambda: B.Woodbury(rank=0), ValueError, "Woodbury got rank=0"),
        (lambda: flows.planar(2, fast="both"), ValueError, "planar got fast='both'"),
        (lambda: flows.sylvester(2, transforms=0), ValueError, "transforms=0"),
    ],
)
def test_refuses_bad_arguments(make: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make()
