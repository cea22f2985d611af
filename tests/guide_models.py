"""Small models with known posteriors, for the tests of guides."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex

Y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def conjugate(y):
    """Posterior of the mean: normal with precision 1 + n, mean sum(y) / (1 + n)."""
    mean = pyro.sample("mean", dist.Normal(torch.zeros((), dtype=y.dtype), 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def conjugate_log_evidence(y):
    n = len(y)
    quadratic = y.square().sum() - y.sum().square() / (1 + n)
    return float(-0.5 * n * math.log(2 * math.pi) - 0.5 * math.log(1 + n) - 0.5 * quadratic)


def schools(y, sigma):
    """Eight schools, centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def positive():
    """Log-normals, which are normals in unconstrained space: log evidence 0."""
    pyro.sample("scales", dist.LogNormal(torch.tensor([0.5, -1.0]), 0.5).to_event(1))


def gaussian(cov_factor):
    zero = cov_factor.new_zeros(len(cov_factor))
    pyro.sample("x", dist.MultivariateNormal(zero, scale_tril=cov_factor))


def improper(y):
    """A flat mean and a flat log-scale, masked; the posterior is a normal-inverse-gamma."""
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0).mask(False))  # noqa: FBT003
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0).mask(False))  # noqa: FBT003
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, scale), obs=y)


def sums_over_particles(y):
    """Right for one particle, wrong under an outermost plate."""
    b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(b.sum(), 1.0), obs=y)


def factor_over_particles():
    b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    pyro.factor("shrink", -b.square().sum())


def branches():
    """Control flow that depends on a value, which cannot be mapped."""
    b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    if float(b.sum().detach()) > 0:
        pyro.factor("tilt", b.square().sum() * 0.1)


def mixture(y):
    """Two components whose assignments are summed out."""
    locs = pyro.sample("locs", dist.Normal(torch.tensor([-2.0, 2.0]), 0.5).to_event(1))
    with pyro.plate("data", len(y)):
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.4, 0.6])))
        pyro.sample("y", dist.Normal(Vindex(locs)[..., k], 1.0), obs=y)
