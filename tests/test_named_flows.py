"""Named flows at their defaults, on raw data of any location, scale and dimension."""

from __future__ import annotations

import pytest
import torch
from cases import VECTOR_FLOWS
from torch import Tensor
from torch.distributions import MultivariateNormal, constraints

from pyro_nf import flows, infer


def skewed(rows: int, size: int) -> Tensor:
    """Log-normal columns, correlated, far from 0 and of unlike scales."""
    z = torch.randn(rows, size) @ (torch.eye(size) + 0.5 * torch.ones(size, size).triu(1))
    return 500.0 + torch.logspace(-2, 3, size) * (0.5 * z).exp()


def gaussian_score(x: Tensor, new: Tensor) -> float:
    x, new = x.double(), new.double()
    normal = MultivariateNormal(x.mean(0), torch.cov(x.T).reshape(x.shape[1], x.shape[1]))
    return normal.log_prob(new).mean().item()


FIRST = ["nice", "realnvp", "maf", "iaf", "nsf"]
OTHERS = sorted(set(VECTOR_FLOWS) - {*FIRST, "circular_nsf"})


@pytest.mark.parametrize(
    ("name", "size"),
    [(name, size) for name in FIRST for size in (1, 5)] + [(name, 2) for name in OTHERS],
)
def test_fits_raw_data_at_the_defaults(name: str, size: int) -> None:
    x, new = skewed(2000, size).split([1500, 500])
    flow = getattr(flows, name)(size)
    infer.fit_density(flow, x, max_steps=150 if name in FIRST else 60, progress=False)
    with torch.no_grad():
        score = flow().log_prob(new).mean().item()
    # In one dimension shifts, and affine maps, are all that these flows are: a Gaussian.
    gaussian = size == 1 and name != "nsf"
    assert score > gaussian_score(x, new) + (-0.05 if gaussian else 0.05)


def test_fits_constrained_data() -> None:
    x = torch.stack([torch.rand(4000) ** 2, torch.randn(4000).exp(), torch.randn(4000)], -1)
    support = [constraints.unit_interval, constraints.positive, constraints.real]
    flow = flows.nsf(3, support=support)
    result = infer.fit_density(flow, x, max_steps=200, progress=False)
    # The entropies: of u², log 2 - 1; of the others, log √(2πe) each.
    assert result.best_loss < -0.307 + 2 * 1.419 + 0.1
    draws = flow().sample((1000,))
    assert support[0].check(draws[:, 0]).all()
    assert support[1].check(draws[:, 1]).all()
