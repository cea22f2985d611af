"""Models, guides and readers for the tests of the conversion to ArviZ."""

from __future__ import annotations

import functools
import warnings

import guide_models as models
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_nf.infer._arviz.package import installed_arviz, is_version_one
from pyro_nf.infer.autoguide import AutoFlow
from pyro_nf.infer.to_arviz import to_arviz

az = installed_arviz()
Y = torch.tensor([1.0, 0.2, 1.6, -0.4, 0.9, 1.3])
# Shapes are tested with guides that were never fitted.
any_fit = pytest.mark.filterwarnings("ignore:to_arviz. k_hat is")


def conjugate_guide(loc=None, scale=None):
    """The posterior of ``models.conjugate``, or a normal beside it."""

    def guide(y):
        n = len(y)
        where = y.sum() / (1 + n) if loc is None else torch.tensor(loc)
        pyro.sample("mean", dist.Normal(where, (1 + n) ** -0.5 if scale is None else scale))

    return guide


def schools(y, sigma):
    """Eight schools, non-centred, the effects derived."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(5.0))
    with pyro.plate("schools", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * eta)
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def groups(data):
    return {name.strip("/") for name in (data.groups if is_version_one(az) else data.groups())}


def dims(data, group):
    return {name: value.dims for name, value in data[group].data_vars.items()}


@functools.cache
def converted_schools():
    """Draws of eight schools from a flow that was never fitted."""
    pyro.set_rng_seed(0)
    guide = AutoFlow(schools, flow="nice", init_scale=0.5)
    guide.setup(models.Y, models.SIGMA)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="to_arviz: k_hat")
        return to_arviz(
            schools, guide, models.Y, models.SIGMA, num_samples=400, num_draws=2000, prior=True
        )
