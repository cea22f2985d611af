"""Linear regressions with proper priors: blr, arK (autoregression of order K), diamonds."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.posteriors._posterior import vector
from benchmarks.posteriors._priors import sample_positive


def bayesian_regression(X: Tensor, y: Tensor) -> None:
    """A normal y ~ N(Xβ, σ) with β ~ N(0, 10) and σ ~ half-normal(10)."""
    beta = pyro.sample("beta", dist.Normal(torch.zeros_like(X[0]), 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(y.new_tensor(10.0)))
    pyro.sample("y", dist.Normal(beta @ X.T, sigma[..., None]).to_event(1), obs=y)


def autoregression(lags: Tensor, y: Tensor) -> None:
    """A series y_t ~ N(α + Σ_k β_k y_{t−k}, σ) with α, β ~ N(0, 10) and σ ~ half-Cauchy(2.5).

    Args:
        lags: The K values before each of y, the latest first, shape (T − K, K).
        y: The values to explain, shape (T − K,).
    """
    alpha = pyro.sample("alpha", dist.Normal(torch.zeros_like(y[0]), 10.0))
    beta = pyro.sample("beta", dist.Normal(torch.zeros_like(lags[0]), 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(y.new_tensor(2.5)))
    mean = alpha[..., None] + beta @ lags.T
    pyro.sample("y", dist.Normal(mean, sigma[..., None]).to_event(1), obs=y)


def diamonds(X: Tensor, y: Tensor) -> None:
    """A normal y ~ N(a + Xb, σ), b ~ N(0, 1), a ~ t₃(8, 10), σ ~ t₃(0, 10) above zero."""
    b = pyro.sample("b", dist.Normal(torch.zeros_like(X[0]), 1.0).to_event(1))
    intercept = pyro.sample("intercept", dist.StudentT(3.0, y.new_tensor(8.0), 10.0))
    sigma = sample_positive("sigma", dist.StudentT(3.0, y.new_tensor(0.0), 10.0))
    mean = intercept[..., None] + b @ X.T
    pyro.sample("y", dist.Normal(mean, sigma[..., None]).to_event(1), obs=y)


def bayesian_regression_arguments(record: dict[str, Any]) -> tuple[Tensor, ...]:
    """The design matrix and the response as they are."""
    return vector(record["X"]), vector(record["y"])


def autoregression_arguments(record: dict[str, Any]) -> tuple[Tensor, ...]:
    """The lagged values of the series beside it."""
    y, order = vector(record["y"]), record["K"]
    lags = [y[order - k : len(y) - k] for k in range(1, order + 1)]
    return torch.stack(lags, -1), y[order:]


def diamonds_arguments(record: dict[str, Any]) -> tuple[Tensor, ...]:
    """The design matrix without its column of ones, centred, and the response."""
    X = vector(record["X"])[:, 1:]
    return X - X.mean(0), vector(record["Y"])
