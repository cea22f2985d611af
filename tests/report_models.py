"""Targets and guides for the tests of the report card."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch

from pyro_nf.infer.autoguide import AutoFlow

TRIL = torch.tensor([[1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [0.1, 0.2, 0.3]])
LOC = torch.tensor([1.0, -2.0, 0.5])


def gaussian():
    """Two sites, a number and a pair, of known evidence: 1."""
    x = pyro.sample("x", dist.Normal(0.0, 1.0).mask(mask=False))
    pair = pyro.sample("pair", dist.Normal(torch.zeros(2), 1.0).to_event(1).mask(mask=False))
    both = torch.cat([x[..., None], pair], -1)
    pyro.factor("joint", dist.MultivariateNormal(LOC, scale_tril=TRIL).log_prob(both))


def gaussian_guide(scale=1.0, shift=0.0):
    guide = AutoFlow(gaussian).setup()
    guide.posterior.whitening.move(LOC + shift, scale * TRIL)
    return guide


def two_modes(dim, share, distance=8.0):
    """A mode of the given share at zero, the other at a distance."""
    centers = torch.zeros(2, dim)
    centers[1, 0] = distance

    def model():
        x = pyro.sample("x", dist.Normal(torch.zeros(dim), 1.0).to_event(1).mask(mask=False))
        modes = dist.Normal(centers, 1.0).to_event(1)
        mixture = dist.MixtureSameFamily(dist.Categorical(torch.tensor([share, 1 - share])), modes)
        pyro.factor("mixture", mixture.log_prob(x))

    guide = AutoFlow(model).setup()
    guide.posterior.whitening.move(torch.zeros(dim), torch.eye(dim))
    return model, guide
