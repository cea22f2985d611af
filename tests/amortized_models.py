"""Models with latents in each row, and amortised guides for them."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from pyro_nf.infer.autoguide._whitening import Whitening
from pyro_nf.infer.autoguide.amortized import AutoAmortizedFlow

N = 100
Y = 1 + 2**0.5 * torch.randn(N, generator=torch.Generator().manual_seed(0))


def conjugate(y, batch=10):
    theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y), subsample_size=batch) as index:
        z = pyro.sample("z", dist.Normal(theta, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y[index])


def positive(y, batch=10):
    """Several sites of a row, global vectors, constrained supports."""
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("rows", len(y), subsample_size=batch) as index:
        rate = pyro.sample("rate", dist.LogNormal(loc[..., 0], scale))
        share = pyro.sample("share", dist.Beta(2.0, 2.0))
        pair = pyro.sample("pair", dist.Dirichlet(torch.ones(3)))
        mean = loc[..., 1] + rate * share + pair[..., 0]
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y[index])


def deep(y, batch=4):
    """Rows left of a plate inside of them."""
    n, t = y.shape
    with pyro.plate("groups", 2, dim=-1):
        sd = pyro.sample("sd", dist.Gamma(2.0, 2.0))
    with pyro.plate("rows", n, subsample_size=batch, dim=-2) as index:
        a = pyro.sample("a", dist.Normal(0.0, sd[..., :1]))
        with pyro.plate("times", t, dim=-1):
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("y", dist.Normal(b, 1.0), obs=y[index])


def data(index, y, batch=10):
    return y[index].unsqueeze(-1)


def encoder():
    return nn.Sequential(nn.Linear(1, 8), nn.SiLU(), nn.Linear(8, 4))


def guide_of(model=conjugate, *, encoded=True, **options):
    if encoded:
        return AutoAmortizedFlow(model, encoder(), data=data, **options)
    return AutoAmortizedFlow(model, **options)


def perturb(guide, scale=0.1):
    """Moves all parameters but the frames', which are never trained."""
    generator = torch.Generator().manual_seed(1)
    frames = [m for m in guide.modules() if isinstance(m, Whitening)]
    fixed = {id(p) for frame in frames for p in frame.parameters()}
    with torch.no_grad():
        for parameter in guide.parameters():
            if id(parameter) not in fixed:
                parameter += scale * torch.randn(parameter.shape, generator=generator)
    return guide


def both(model, encoded, *args, **options):
    """Guides of the batched and of the full model, with the same parameters."""
    part = perturb(guide_of(model, encoded=encoded, **options).setup(*args))
    whole = guide_of(model, encoded=encoded, **options).setup(*args, N)
    whole.load_state_dict(part.state_dict())
    return part, whole
