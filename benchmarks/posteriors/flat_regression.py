"""Linear regressions with flat coefficients: earnings, nes, mesquite, kidiq.

Where the scale is flat too, everything has a closed form. With X of n rows and k columns, full
rank, the least-squares fit b and its residual sum of squares r,

    β | σ, y ~ N(b, σ² (XᵀX)⁻¹),        σ² | y ~ InverseGamma((n − k − 1) / 2, r / 2),

and so β | y is a Student t of n − k − 1 degrees of freedom around b.
"""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.posteriors._posterior import vector
from benchmarks.posteriors._priors import flat, flat_positive


def flat_regression(X: Tensor, y: Tensor) -> None:
    """A normal y ~ N(Xβ, σ) with β flat and σ flat above zero."""
    beta = pyro.sample("beta", flat(X[0]))
    sigma = pyro.sample("sigma", flat_positive(y[0]))
    pyro.sample("y", dist.Normal(beta @ X.T, sigma[..., None]).to_event(1), obs=y)


def kidscore(X: Tensor, y: Tensor) -> None:
    """A normal y ~ N(Xβ, σ) with β flat and σ ~ half-Cauchy(2.5)."""
    beta = pyro.sample("beta", flat(X[0]))
    sigma = pyro.sample("sigma", dist.HalfCauchy(y.new_tensor(2.5)))
    pyro.sample("y", dist.Normal(beta @ X.T, sigma[..., None]).to_event(1), obs=y)


def least_squares(X: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The coefficients (k,), the inverse of XᵀX (k, k) and the residual sum of squares ()."""
    basis, triangle = torch.linalg.qr(X)  # (n, k), (k, k): XᵀX itself would square the condition
    inverse = torch.linalg.solve_triangular(triangle, torch.eye(len(triangle)).to(X), upper=True)
    coefficients = inverse @ (basis.T @ y)
    return coefficients, inverse @ inverse.T, (y - X @ coefficients).square().sum()


def exact_moments(X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean and standard deviation of (β, σ) under ``flat_regression``: (k + 1,) each."""
    coefficients, covariance, residual = least_squares(X, y)
    shape = (len(y) - X.shape[1] - 1) / 2  # of σ² ~ InverseGamma(shape, residual / 2)
    variance = residual / 2 / (shape - 1)  # E σ²
    scale = (residual / 2).sqrt() * math.exp(math.lgamma(shape - 0.5) - math.lgamma(shape))  # E σ
    mean = torch.cat([coefficients, scale[None]])
    spread = torch.cat([variance * covariance.diagonal(), (variance - scale.square())[None]])
    return mean, spread.sqrt()


def exact_log_evidence(X: Tensor, y: Tensor) -> float:
    """The log evidence of ``flat_regression``, the flat densities counted as 1."""
    n, k = X.shape
    _, covariance, residual = least_squares(X, y)
    shape = (n - k - 1) / 2
    # ∫ dβ leaves (2π)^(−(n−k)/2) |XᵀX|^(−1/2) σ^(−(n−k)) e^(−r/2σ²); ∫ dσ is a Gamma integral.
    over_coefficients = 0.5 * torch.logdet(covariance) - (n - k) / 2 * math.log(2 * math.pi)
    over_scale = math.lgamma(shape) - shape * (residual / 2).log() - math.log(2)
    return float(over_coefficients + over_scale)


def earnings_arguments(record: dict[str, Any]) -> tuple[Tensor, ...]:
    """Earnings on height: X of (1, height)."""
    height = vector(record["height"])
    return torch.stack([torch.ones_like(height), height], -1), vector(record["earn"])


def nes_arguments(record: dict[str, Any]) -> tuple[Tensor, ...]:
    """Party identification on ideology, race, three age groups, education, gender and income."""
    age = vector(record["age_discrete"])
    named = {name: vector(record[name]) for name in ("real_ideo", "race_adj", "educ1", "gender")}
    columns = [torch.ones_like(age), named["real_ideo"], named["race_adj"]]
    columns += [(age == group).double() for group in (2, 3, 4)]
    columns += [named["educ1"], named["gender"], vector(record["income"])]
    return torch.stack(columns, -1), vector(record["partyid7"])


def mesquite_arguments(record: dict[str, Any]) -> tuple[Tensor, ...]:
    """Log weight of bushes on log volume, area, shape and height of the canopy, and the group."""
    first, second = vector(record["diam1"]), vector(record["diam2"])
    area = first * second
    columns = [
        torch.ones_like(area),
        (area * vector(record["canopy_height"])).log(),
        area.log(),
        (first / second).log(),
        vector(record["total_height"]).log(),
        vector(record["group"]),
    ]
    return torch.stack(columns, -1), vector(record["weight"]).log()


def kidscore_arguments(record: dict[str, Any]) -> tuple[Tensor, ...]:
    """Test scores of children on their mothers' schooling, IQ and the product of both."""
    schooled, iq = vector(record["mom_hs"]), vector(record["mom_iq"])
    X = torch.stack([torch.ones_like(iq), schooled, iq, schooled * iq], -1)
    return X, vector(record["kid_score"])
