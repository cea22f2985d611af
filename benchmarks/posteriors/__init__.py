"""Fourteen posteriors of real data as Pyro models, with reference draws to compare with.

Models, data and draws are those of posteriordb (https://github.com/stan-dev/posteriordb). The data
are not part of the repository: pass a folder with posteriordb's data.
"""

from __future__ import annotations

from functools import partial

from benchmarks.posteriors import (
    eight_schools,
    flat_regression,
    garch,
    gaussian_mixture,
    gaussian_process,
    hidden_markov,
    lotka_volterra,
    regression,
)
from benchmarks.posteriors._posterior import Posterior, Reference, joined, reference

__all__ = ["POSTERIORS", "Posterior", "Reference", "reference"]

_flat = partial(
    Posterior,
    model=flat_regression.flat_regression,
    constrained=lambda values: joined(values, "beta", "sigma"),
    log_evidence=flat_regression.exact_log_evidence,
)

_ALL = (
    Posterior(
        "eight_schools-eight_schools_centered",
        eight_schools.centered,
        eight_schools.arguments,
        eight_schools.centered_columns,
    ),
    Posterior(
        "eight_schools-eight_schools_noncentered",
        eight_schools.noncentered,
        eight_schools.arguments,
        eight_schools.noncentered_columns,
    ),
    _flat("earnings-earn_height", arguments=flat_regression.earnings_arguments),
    _flat("nes1992-nes", arguments=flat_regression.nes_arguments),
    _flat("mesquite-logmesquite_logvash", arguments=flat_regression.mesquite_arguments),
    Posterior(
        "kidiq-kidscore_interaction",
        flat_regression.kidscore,
        flat_regression.kidscore_arguments,
        lambda values: joined(values, "beta", "sigma"),
    ),
    Posterior(
        "sblrc-blr",
        regression.bayesian_regression,
        regression.bayesian_regression_arguments,
        lambda values: joined(values, "beta", "sigma"),
    ),
    Posterior(
        "arK-arK",
        regression.autoregression,
        regression.autoregression_arguments,
        lambda values: joined(values, "alpha", "beta", "sigma"),
    ),
    Posterior(
        "diamonds-diamonds",
        regression.diamonds,
        regression.diamonds_arguments,
        lambda values: joined(values, "b", "intercept", "sigma"),
    ),
    Posterior("garch-garch11", garch.garch, garch.arguments, garch.columns),
    Posterior(
        "gp_pois_regr-gp_regr",
        gaussian_process.gaussian_process,
        gaussian_process.arguments,
        lambda values: joined(values, "rho", "alpha", "sigma"),
    ),
    Posterior(
        "low_dim_gauss_mix-low_dim_gauss_mix",
        gaussian_mixture.gaussian_mixture,
        gaussian_mixture.arguments,
        lambda values: joined(values, "mu", "sigma", "theta"),
    ),
    Posterior(
        "hmm_example-hmm_example",
        hidden_markov.hidden_markov,
        hidden_markov.arguments,
        hidden_markov.columns,
    ),
    Posterior(
        "hudson_lynx_hare-lotka_volterra",
        lotka_volterra.lotka_volterra,
        lotka_volterra.arguments,
        lotka_volterra.columns,
    ),
)

POSTERIORS: dict[str, Posterior] = {posterior.name: posterior for posterior in _ALL}
