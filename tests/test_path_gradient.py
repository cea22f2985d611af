"""Path gradients: the same mean, no variance at the exact fit, and only where they are right."""

from __future__ import annotations

import copy

import guide_models as models
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import nn

from pyro_nf import bijections, flows
from pyro_nf import transforms as T
from pyro_nf.distributions import DiagonalNormal, StudentT
from pyro_nf.infer._path_gradient import PathGradientDistribution
from pyro_nf.infer.autoguide import AutoFlow
from pyro_nf.infer.autoguide._posterior import supports_path

LAYERS = {
    "coupling": lambda: flows.realnvp(3, transforms=2, hidden_dims=(8,)).transform,
    "spline coupling": lambda: (
        flows.nsf(3, wiring="coupling", transforms=2, hidden_dims=(8,)).transform
    ),
    "maf": lambda: flows.maf(3, transforms=2, hidden_dims=(8,)).transform,
    "iaf": lambda: flows.iaf(3, transforms=2, hidden_dims=(8,)).transform,
    "linear": lambda: T.TriangularAffine(3),
    "continuous": lambda: flows.cnf(3, hidden_dims=(8,)).transform,
}


def _disturbed(layer, size=0.1):
    torch.manual_seed(0)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(size * torch.randn_like(p))
    return layer.double()


def _gradients(layer, log_p, kind, count=400, base=None):
    """Gradients of single estimates from the same draws, ``(count, parameters)``."""
    base = DiagonalNormal(3).double() if base is None else base
    rows = []
    for seed in range(count):
        torch.manual_seed(seed)
        q = PathGradientDistribution(base, layer)
        z = q.rsample((16,))
        log_q = q.log_prob(z) if kind == "path" else super(type(q), q).log_prob(z)
        parameters = [*layer.parameters(), *base.parameters()]
        loss = (log_q - log_p(z)).mean()
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g).flatten()
                    for p, g in zip(parameters, grads, strict=True)
                ]
            )
        )
    return torch.stack(rows)


def _log_p(z):
    return dist.Normal(0.5, 0.7).log_prob(z).sum(-1) - 0.1 * z[..., 0].square() * z[..., 1]


@pytest.mark.parametrize("name", LAYERS)
def test_the_mean_is_that_of_the_plain_gradient(name):
    count = 16 if name == "continuous" else 60
    layer = _disturbed(LAYERS[name]())
    plain, path = (_gradients(layer, _log_p, kind, count) for kind in ("plain", "path"))
    difference = plain - path  # the same draws: only the score differs
    error = difference.std(0) / count**0.5
    z_scores = difference.mean(0).abs() / (error + 1e-9)
    assert difference.abs().max() > 1e-3
    assert z_scores.max() < 5.0


@pytest.mark.parametrize("name", LAYERS)
def test_the_variance_is_gone_at_the_exact_fit(name):
    layer = _disturbed(LAYERS[name]())
    exact = copy.deepcopy(layer).requires_grad_(requires_grad=False)
    base = DiagonalNormal(3).double()

    def log_p(z):
        x, ladj = exact.inverse_and_ladj(z)
        return base().log_prob(x) + ladj

    count = 5 if name == "continuous" else 20
    plain, path = (_gradients(layer, log_p, kind, count) for kind in ("plain", "path"))
    assert path.var(0).sum() < 1e-6 * plain.var(0).sum()


def test_a_learned_base_keeps_its_path():
    """Draws of Student's t are reparameterised by gamma variates, whose path reaches ν."""
    layer = _disturbed(LAYERS["linear"]())
    base = StudentT(3, df=6.0).double()
    plain, path = (_gradients(layer, _log_p, kind, 60, base) for kind in ("plain", "path"))
    difference = plain - path
    z_scores = difference.mean(0).abs() / (difference.std(0) / 60**0.5 + 1e-9)
    assert z_scores.max() < 5.0


def test_only_the_own_draw_takes_the_path():
    layer = _disturbed(LAYERS["coupling"]())
    q = PathGradientDistribution(DiagonalNormal(3).double(), layer)
    own, other = q.rsample((5,)), torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    parameter = next(layer.parameters())
    for value, reaches in ((other, True), (own.detach(), True), (own.clone(), True)):
        (grad,) = torch.autograd.grad(q.log_prob(value).sum(), parameter, allow_unused=True)
        assert (grad is not None and bool(grad.abs().sum() > 0)) == reaches
    values = q.log_prob(own), super(type(q), q).log_prob(own)
    torch.testing.assert_close(*values)
    assert all(p.requires_grad for p in layer.parameters())


def test_a_flow_prior_scored_at_the_guides_draw_keeps_its_gradient():
    prior = flows.realnvp(3, transforms=2, hidden_dims=(8,))

    def model():
        pyro.module("prior", prior)
        pyro.sample("z", prior())

    pyro.clear_param_store()
    guide = AutoFlow(model).setup()
    elbo = Trace_ELBO()
    with guide.path_gradients():
        elbo.differentiable_loss(model, guide).backward()
    assert all(p.grad is not None for p in prior.transform[0].parameters())
    assert any(bool(p.grad.abs().sum() > 0) for p in prior.parameters() if p.grad is not None)


ELBOS = {
    "trace": Trace_ELBO(num_particles=1),
    "vectorised": Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "enumerated": TraceEnum_ELBO(max_plate_nesting=1),
}


@pytest.mark.parametrize("elbo", ELBOS.values(), ids=ELBOS)
def test_under_pyros_elbos(elbo):
    """Same loss from the same draws, and the same mean gradient."""
    pyro.clear_param_store()
    model, guided = config_enumerate(models.mixture), poutine.block(models.mixture, hide=["k"])
    if not isinstance(elbo, TraceEnum_ELBO):
        model = guided = models.conjugate
    y = torch.tensor([-2.0, 1.5, 2.5])
    guide = AutoFlow(guided, flow=lambda d: [T.TriangularAffine(d)], affine=None).setup(y)
    rows = {"plain": [], "path": []}
    for seed in range(60):
        for kind, row in rows.items():
            guide.zero_grad()
            pyro.set_rng_seed(seed)
            if kind == "path":
                with guide.path_gradients():
                    loss = elbo.differentiable_loss(model, guide, y)
            else:
                loss = elbo.differentiable_loss(model, guide, y)
            loss.backward()
            grads = [p.grad for p in guide.parameters() if p.grad is not None]
            row.append(torch.cat([loss.detach()[None], *(g.flatten() for g in grads)]))
    plain, path = torch.stack(rows["plain"]), torch.stack(rows["path"])
    torch.testing.assert_close(plain[:, 0], path[:, 0], rtol=1e-4, atol=1e-4)
    difference = (plain - path)[:, 1:]
    z_scores = difference.mean(0).abs() / (difference.std(0) / 60**0.5 + 1e-5)
    assert difference.abs().max() > 1e-3
    assert z_scores.max() < 5.0


def test_where_they_are_on():
    guide = AutoFlow(models.conjugate).setup(torch.ones(2))
    assert not isinstance(guide.get_posterior(), PathGradientDistribution)
    with guide.path_gradients():
        assert isinstance(guide.get_posterior(), PathGradientDistribution)
    always = AutoFlow(models.conjugate, path_gradient=True).setup(torch.ones(2))
    assert isinstance(always.get_posterior(), PathGradientDistribution)
    never = AutoFlow(models.conjugate, path_gradient=False).setup(torch.ones(2))
    with never.path_gradients():
        assert not isinstance(never.get_posterior(), PathGradientDistribution)


def test_where_inverses_are_cheap():
    affine = bijections.Affine()
    large = T.Autoregressive(affine, 65, fast="sample", hidden_dims=[4])
    assert supports_path(T.Autoregressive(affine, 64, fast="sample", hidden_dims=[4]))
    assert not supports_path(large)
    assert not supports_path(T.Compose([large]))
    assert supports_path(T.Autoregressive(affine, 65, fast="log_prob", hidden_dims=[4]))
    assert supports_path(flows.planar(3).transform)  # its root is on the way to the data
    assert not supports_path(flows.planar(3).transform[0].layer)
    assert not supports_path(flows.residual_flow(3).transform)


def test_neutras_transform_is_untouched():
    """The path lives in the distribution alone: a transform asked by others has its parameters."""
    guide = AutoFlow(models.schools, path_gradient=True).setup(models.Y, models.SIGMA)
    transform = guide.get_transform()
    x = torch.randn(3, 10)
    ladj = transform.log_abs_det_jacobian(x, transform(x))
    (grad,) = torch.autograd.grad(ladj.sum(), guide.posterior.affine.log_scale)
    assert isinstance(guide.posterior.affine.log_scale, nn.Parameter)
    torch.testing.assert_close(grad, torch.full((10,), 3.0))
