"""The sigmoidal and mixture bijections: exactness far out, fresh units, named flows."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from pyro.distributions import transforms as pyro_transforms
from torch import Tensor, nn
from torch.autograd import grad, gradcheck, gradgradcheck

from pyro_nf import bijections as B
from pyro_nf import flows, transforms
from pyro_nf.bijections import _root
from pyro_nf.bijections._logit_mixture import mix_affine_units
from pyro_nf.bijections._normal_logit import logit_ndtr, ndtri_of_logit
from pyro_nf.bijections._rectified_mixture import leaky_mixture

torch.set_num_threads(1)

ACTIVATIONS = ("sigmoid", "tanh", "elu", "leaky_relu")
SMOOTH = {
    "sigmoid": B.DeepSigmoidal(units=4),
    "tanh": B.DeepSigmoidal(units=4, activation="tanh"),
    "elu": B.DeepSigmoidal(units=4, activation="elu"),
    "dense": B.DeepDenseSigmoidal(units=3),
    "dense, three layers": B.DeepDenseSigmoidal(units=2, layers=3),
    "logistic": B.LogisticMixture(components=4),
    "normal": B.GaussianMixtureProbit(components=4),
}
ALL = {**SMOOTH, "leaky_relu": B.DeepSigmoidal(units=4, activation="leaky_relu")}
each = pytest.mark.parametrize("bijection", ALL.values(), ids=ALL)
each_smooth = pytest.mark.parametrize("bijection", SMOOTH.values(), ids=SMOOTH)


def drawn(bijection: B.ScalarBijection, n: int, scale: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(bijection.param_count, n, generator=generator, dtype=torch.float64)


@each
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_float32_agrees_with_float64_to_large_inputs(
    bijection: B.ScalarBijection, scale: float
) -> None:
    magnitude = torch.logspace(-2, 5, 400, dtype=torch.float64)
    x = torch.cat([magnitude, -magnitude]).float()
    params = drawn(bijection, 800, scale).float()
    y, ladj = bijection.forward(x, params)
    y64, ladj64 = bijection.forward(x.double(), params.double())
    assert ladj.isfinite().all()
    # A steep unit magnifies the rounding of x: 1e-6 of its own slope.
    steep = (ladj64.exp() * x.double()).abs()
    assert ((y - y64).abs() <= 1e-5 * (1 + y64.abs() + steep)).all()
    torch.testing.assert_close(ladj.double(), ladj64, rtol=1e-5, atol=2e-5)


@each_smooth
def test_gradients_agree_with_float64_to_large_inputs(bijection: B.ScalarBijection) -> None:
    x = torch.tensor([-100.0, -40.0, -16.0, -3.0, 0.0, 3.0, 16.0, 40.0, 100.0])
    params = drawn(bijection, 9, 1.0).float()
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [x.to(dtype).requires_grad_(), params.to(dtype).requires_grad_()]
        y, ladj = bijection.forward(*leaves)
        results.append([*grad(y.sum(), leaves, retain_graph=True), *grad(ladj.sum(), leaves)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-4)


def test_log_density_does_not_saturate_where_pyros_does() -> None:
    """Pyro's layer, given these units, is wrong by nats from |x| = 16 on in float32."""
    f = B.DeepSigmoidal(units=16)
    params = drawn(f, 9, 0.5)
    x = torch.tensor([-40.0, -25, -16, -8, 0, 8, 16, 25, 40], dtype=torch.float64)
    y, ladj = f.forward(x.float(), params.float())
    with mpmath.workdps(60):
        units = _units_of(f, params)
        for i, value in enumerate(x.tolist()):
            mixed = lambda v, i=i: _mixture(units, i, v)  # noqa: E731
            want = mixed(mpmath.mpf(value))
            slope = mpmath.diff(mixed, mpmath.mpf(value))
            assert abs(y[i].item() - want) <= 1e-5 * (1 + abs(want))
            assert abs(ladj[i].item() - mpmath.log(slope)) <= 1e-5


def _units_of(f: B.DeepSigmoidal, params: Tensor) -> list[list[list[float]]]:
    """Slopes, shifts and weights, written out from the documented parametrisation."""
    raw_slope, shift, logits = params.float().double().view(3, f.units, -1).unbind(0)
    center = 4 * (f.units - 1) / (f.units + 1) * torch.linspace(-1, 1, f.units).double()[:, None]
    slope = torch.nn.functional.softplus(raw_slope + math.log(math.expm1(4 / 3 - 1e-3))) + 1e-3
    weight = (logits - center.abs()).softmax(0)
    return [t.tolist() for t in (slope, shift - 4 / 3 * center, weight)]


def _mixture(units: list[list[list[float]]], i: int, x: mpmath.mpf) -> mpmath.mpf:
    p, q = (
        sum(
            w[i] / (1 + mpmath.exp(side * (a[i] * x + b[i])))
            for a, b, w in zip(*units, strict=True)
        )
        for side in (-1, 1)
    )
    return mpmath.log(p) - mpmath.log(q)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_is_pyros_formula(activation: str) -> None:
    """y = T⁻¹(Σ w T(a x + b)) with the units read off the bijection."""
    names = {"elu": "ELUTransform", "leaky_relu": "LeakyReLUTransform"}
    torch_names = {"sigmoid": "SigmoidTransform", "tanh": "TanhTransform"}
    if activation in names:
        t = getattr(pyro_transforms, names[activation])()
    else:
        t = getattr(torch.distributions, torch_names[activation])()
    f = B.DeepSigmoidal(units=5, activation=activation)
    params = drawn(f, 40, 0.5)
    x = torch.linspace(-3, 3, 40, dtype=torch.float64)
    raw_slope, shift, logits = params.view(3, 5, -1).unbind(0)
    rectified = activation in names
    fresh = 1.0 if rectified else 4 / 3
    slope = torch.nn.functional.softplus(raw_slope + math.log(math.expm1(fresh - 1e-3))) + 1e-3
    line = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    if rectified:
        shift, weight = shift - 0.25 * line, logits.softmax(0)
    else:
        scale, reach = (2, 6) if activation == "tanh" else (1, 4)
        center = reach * 4 / 6 * line
        shift = shift - fresh * center / scale
        weight = (logits - center.abs()).softmax(0)
    mean = (weight * t(slope * x + shift)).sum(0)
    torch.testing.assert_close(f.forward(x, params)[0], t.inv(mean), rtol=1e-7, atol=1e-8)


@each_smooth
def test_log_derivative_is_autograds_and_the_inverse_undoes(
    bijection: B.ScalarBijection,
) -> None:
    x = torch.linspace(-8, 8, 300, dtype=torch.float64, requires_grad=True)
    params = drawn(bijection, 300, 1.0)
    y, ladj = bijection.forward(x, params)
    (slope,) = grad(y.sum(), x)
    torch.testing.assert_close(ladj, slope.log(), rtol=1e-10, atol=1e-10)
    x2, ladj2 = bijection.inverse(y.detach(), params)
    torch.testing.assert_close(bijection.forward(x2, params)[0], y, rtol=1e-10, atol=1e-10)
    flat = ladj.detach() < -14  # y rounded to float64 no longer fixes x
    torch.testing.assert_close(x2[~flat], x[~flat], rtol=0, atol=1e-8)
    torch.testing.assert_close(ladj2[~flat], -ladj[~flat], rtol=0, atol=1e-6)


@each_smooth
def test_first_and_second_derivatives_in_both_directions(bijection: B.ScalarBijection) -> None:
    x = torch.tensor([-1.3, 0.4, 2.0], dtype=torch.float64, requires_grad=True)
    params = drawn(bijection, 3, 0.7).requires_grad_()
    for run in (bijection.forward, bijection.inverse):
        assert gradcheck(run, (x, params), fast_mode=True)
        assert gradgradcheck(run, (x, params), fast_mode=True)


def test_slope_on_a_plateau_is_tiny_and_not_zero() -> None:
    """Two steep units far apart: float32 underflows between them, the logarithm does not."""
    x, logits = torch.zeros(1, requires_grad=True), torch.zeros(2, 1)
    y, ladj = mix_affine_units(
        x, torch.full((2, 1), 100.0), torch.tensor([[250.0], [-250.0]]), logits
    )
    assert y.abs().item() < 1e-6
    assert ladj.item() == pytest.approx(math.log(400) - 250, abs=1e-4)


@pytest.mark.parametrize("logit", [-1e6, -1e3, -30.0, -1.0, -1e-3, 0.0, 0.2, 5.0, 80.0, 1e4])
def test_normal_quantile_of_a_logit(logit: float) -> None:
    z = ndtri_of_logit(torch.tensor([logit], dtype=torch.float64))
    with mpmath.workdps(40):
        exact = lambda v: mpmath.log(mpmath.ncdf(v)) - mpmath.log(mpmath.ncdf(-v))  # noqa: E731
        value = exact(mpmath.mpf(z.item()))
    assert float(value) == pytest.approx(logit, rel=1e-13, abs=1e-14)
    torch.testing.assert_close(logit_ndtr(z)[0].item(), logit, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("z", [-1e3, -50.0, 3.0, 12.0, 200.0, 1e5])
def test_the_normal_logits_derivatives_far_out(z: float) -> None:
    """Those of log f', which tend to 1/z and -1/z²."""
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        at = torch.tensor(z, dtype=dtype, requires_grad=True)
        (first,) = grad(logit_ndtr(at)[1], at, create_graph=True)
        (second,) = grad(first, at)
        with mpmath.workdps(60):
            v = mpmath.mpf(z)
            pdf, above, below = mpmath.npdf(v), mpmath.erfc(v / mpmath.sqrt(2)) / 2, mpmath.ncdf(v)
            down, up = pdf / above, pdf / below  # the hazards, whose h' is h² - v h and -h² - v h
            want = [-v - up + down, -1 + up * up + v * up + down * down - v * down]
        assert first.item() == pytest.approx(float(want[0]), rel=tolerance)
        assert second.item() == pytest.approx(float(want[1]), rel=100 * tolerance)


def test_leaky_units_are_as_exact_as_the_dtype() -> None:
    """One unit below its kink is the identity of slopes 0.01 and 100."""
    u = torch.tensor([[-3.0]], dtype=torch.float64)
    y, ladj = leaky_mixture(u, torch.ones_like(u), torch.zeros_like(u))
    torch.testing.assert_close(y, u[0], rtol=1e-15, atol=0)
    torch.testing.assert_close(ladj, torch.zeros_like(ladj), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("bijection", "deviation"),
    [
        (B.DeepSigmoidal(), 0.1),
        (B.DeepSigmoidal(activation="tanh"), 0.15),
        (B.DeepSigmoidal(activation="elu"), 0.02),
        (B.DeepSigmoidal(activation="leaky_relu"), 0.25),
        (B.DeepDenseSigmoidal(), 0.2),
        (B.LogisticMixture(), 0.1),
        (B.GaussianMixtureProbit(), 0.01),
        (B.DeepSigmoidal(units=1), 1e-6),
        (B.DeepDenseSigmoidal(units=1), 1e-6),
        (B.LogisticMixture(components=1), 1e-6),
        (B.GaussianMixtureProbit(components=1), 1e-6),
    ],
    ids=str,
)
def test_zero_parameters_are_near_the_identity(
    bijection: B.ScalarBijection, deviation: float
) -> None:
    x = torch.linspace(-3, 3, 61)
    y, _ = bijection.forward(x, torch.zeros(bijection.param_count, 61))
    assert (y - x).abs().max() <= deviation


@each
def test_fresh_units_receive_different_gradients(bijection: B.ScalarBijection) -> None:
    """Units that are equal would stay equal for ever."""
    x = torch.linspace(-2, 2, 31, dtype=torch.float64)
    params = torch.zeros(bijection.param_count, 1, dtype=torch.float64, requires_grad=True)
    for _ in range(2):  # the rectified units differ from the second step on
        y, ladj = bijection.forward(x, params.expand(-1, 31))
        (g,) = grad((y.sin() + ladj * x.cos()).sum(), params)
        params = (params - 0.1 * g).detach().requires_grad_()
    units = getattr(bijection, "units", None) or bijection.components
    rows = g[: 3 * units].view(3, units)
    for kind in rows:
        gaps = (kind[:, None] - kind[None]).abs() + torch.eye(units)
        assert gaps.min() > 1e-6


@each
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_gives_none(bijection: B.ScalarBijection, bad: float) -> None:
    x = torch.tensor([0.5, bad], dtype=torch.float64)
    params = drawn(bijection, 2, 0.5)
    y, _ = bijection.forward(x, params)
    assert y[0].isfinite()
    assert not y[1].isfinite()
    x2, ladj2 = bijection.inverse(torch.stack([y[0], x[1]]), params)
    torch.testing.assert_close(x2[0], x[0])
    assert x2[1].isnan()
    assert ladj2[1].isnan()


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="units=0. Pass a positive integer"):
        B.DeepSigmoidal(units=0)
    with pytest.raises(ValueError, match="activation='relu'. Pass one of 'sigmoid', 'tanh'"):
        B.DeepSigmoidal(activation="relu")
    with pytest.raises(TypeError, match="layers=2.0"):
        B.DeepDenseSigmoidal(layers=2.0)
    with pytest.raises(ValueError, match="components=-1"):
        B.LogisticMixture(components=-1)
    with pytest.raises(ValueError, match="max_log_scale=0"):
        B.GaussianMixtureProbit(max_log_scale=0.0)
    with pytest.raises(ValueError, match="transformer='dff'. Pass one of 'dsf', 'ddsf'"):
        flows.naf(2, transformer="dff")
    with pytest.raises(ValueError, match="components=0"):
        flows.gaussianization(2, components=0)


@pytest.mark.parametrize("name", ["naf", "flow_plus_plus", "gaussianization"])
def test_one_dimension_takes_a_context_or_none(name: str) -> None:
    make = getattr(flows, name)
    assert make(1)().log_prob(torch.zeros(4, 1)).shape == (4,)
    context = torch.zeros(4, 2)
    assert make(1, context_dim=2)(context).sample().shape == (4, 1)


@pytest.mark.parametrize("name", ["naf", "flow_plus_plus", "gaussianization"])
def test_the_density_integrates_to_one(name: str) -> None:
    torch.manual_seed(0)
    flow = getattr(flows, name)(2, transforms=2).double()
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.15)
    line = torch.linspace(-15, 15, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        total = flow().log_prob(grid).exp().sum() * (line[1] - line[0]) ** 2
    assert total.item() == pytest.approx(1.0, abs=1e-3)


def test_the_slow_direction_searches_once_and_not_again_for_its_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    layer = transforms.Autoregressive(B.DeepSigmoidal(units=3), 4, fast="log_prob").double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    searches = []
    search = _root.solve
    monkeypatch.setattr(_root, "solve", lambda *args: searches.append(1) or search(*args))
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    y, ladj = layer.forward_and_ladj(x)
    assert len(searches) == 4
    (got,) = grad(y.sin().sum() + ladj.cos().sum(), x)
    assert len(searches) == 4
    torch.testing.assert_close(layer.inverse_and_ladj(y)[0], x, rtol=0, atol=1e-8)

    def loss(x: Tensor) -> Tensor:
        y, ladj = layer.forward_and_ladj(x)
        return y.sin().sum() + ladj.cos().sum()

    # Under torch.func every step is recorded and differentiated.
    torch.testing.assert_close(got, torch.func.grad(loss)(x.detach()), rtol=1e-9, atol=1e-9)
