"""Eight schools: how far the guides of Pyro and a flow guide get, beside Hamiltonian Monte Carlo.

The data are the effects of coaching on test scores in eight schools and their standard errors
(Rubin, 1981). The model is the centred one, whose posterior has a funnel: the smaller the spread
tau between schools, the tighter the schools' effects theta. Each guide is fitted to it and scored
by importance weights; NUTS, on the non-centred form of the same model, is the reference.

    python examples/eight_schools.py            # two to four minutes
    python examples/eight_schools.py --quick    # some seconds, to see that it runs

Numbers are printed; pictures go to ``out/``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoIAFNormal, AutoMultivariateNormal, AutoNormal
from pyro.infer.reparam import LocScaleReparam
from torch import Tensor

from pyro_nf import infer
from pyro_nf.infer.autoguide import AutoFlow

EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
Samples = dict[str, Tensor]


def model(effects: Tensor, errors: Tensor) -> None:
    """Eight schools, centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(effects)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("effect", dist.Normal(theta, errors), obs=effects)


def log_evidence() -> float:
    """The exact log evidence: all but tau is normal, and tau is summed over a grid."""
    log_tau = torch.linspace(-12, 9, 20_000, dtype=torch.float64)
    tau = log_tau.exp()
    prior = dist.HalfCauchy(torch.tensor(5.0).double()).log_prob(tau) + log_tau
    covariance = (tau[:, None] ** 2 + ERRORS.double() ** 2).diag_embed() + 25.0  # mu ~ N(0, 5)
    zero = torch.zeros(8).double()
    likelihood = dist.MultivariateNormal(zero, covariance).log_prob(EFFECTS.double())
    spacing = (log_tau[1] - log_tau[0]).log()
    return float((prior + likelihood + spacing).logsumexp(0))


def fit_pyros(guide: Callable[..., Any], steps: int) -> None:
    """Fits one of Pyro's guides as its tutorials do, with one draw in a step."""
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(steps):
        svi.step(EFFECTS, ERRORS)


def run_nuts(samples: int) -> Samples:
    """Draws by NUTS from the non-centred form."""
    noncentred = poutine.reparam(model, config={"theta": LocScaleReparam(0.0)})
    mcmc = MCMC(NUTS(noncentred), samples, warmup_steps=samples // 2, disable_progbar=True)
    mcmc.run(EFFECTS, ERRORS)
    draws = mcmc.get_samples()
    mu, tau = draws["mu"].reshape(-1, 1), draws["tau"].reshape(-1, 1)
    theta = mu + tau * draws["theta_decentered"].reshape(len(mu), 8)
    return {"mu": mu.squeeze(-1), "tau": tau.squeeze(-1), "theta": theta}


def summary(samples: Samples) -> str:
    """Mean and sd of tau, mean of the first school, and the schools' mean correlation."""
    tau, theta = samples["tau"].double(), samples["theta"].double().reshape(-1, 8)
    correlations = np.corrcoef(theta.numpy().T)[np.triu_indices(8, 1)]
    return f"{tau.mean():7.2f}{tau.std():7.2f}{theta[:, 0].mean():9.2f}{correlations.mean():9.2f}"


def draw(clouds: dict[str, Samples], path: Path) -> None:
    """Draws the funnel, log tau against the first school's effect, of each method."""
    figure, axes = plt.subplots(1, len(clouds), figsize=(3.2 * len(clouds), 3.4), sharey=True)
    for ax, (name, samples) in zip(axes, clouds.items(), strict=True):
        theta, tau = samples["theta"].reshape(-1, 8), samples["tau"].flatten()
        ax.scatter(theta[:1500, 0], tau[:1500].log(), s=3, alpha=0.35)
        ax.set(title=name, xlabel="effect of school 1", xlim=(-25, 45), ylim=(-4, 4.5))
    axes[0].set_ylabel("log tau")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    """Fits, prints the table and the report card, draws the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short fits")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where pictures go")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    quick, data = arguments.quick, (EFFECTS, ERRORS)

    truth = log_evidence()
    print(f"Eight schools, centred; log evidence {truth:.3f} nats. Means over the schools.\n")
    print(
        f"{'':24s}{'gap':>7s}{'k_hat':>7s}{'ess':>6s}{'tau':>7s}{'sd':>7s}{'theta 1':>9s}"
        f"{'corr.':>9s}{'seconds':>9s}"
    )
    clouds: dict[str, Samples] = {}
    guides = AutoNormal, AutoMultivariateNormal, AutoIAFNormal, AutoFlow
    for kind in guides:
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        guide, fit, started = kind(model), None, time.perf_counter()
        if kind is AutoFlow:
            steps = 100 if quick else 3000
            fit = infer.fit_guide(model, guide, *data, num_steps=steps, progress=False)
        else:
            fit_pyros(guide, 100 if quick else 3000)
        seconds = time.perf_counter() - started
        search = kind is AutoFlow and not quick  # for lost modes
        card = infer.report(model, guide, *data, fit=fit, detector=search)
        samples = Predictive(model, guide=guide, num_samples=10_000, parallel=True)(*data)
        numbers, clouds[kind.__name__] = card.diagnostics, samples
        print(
            f"{kind.__name__:24s}{truth - numbers.elbo:7.3f}{numbers.k_hat:7.2f}"
            f"{numbers.ess:6.2f}{summary(samples)}{seconds:9.0f}",
            flush=True,
        )
    started = time.perf_counter()
    clouds["NUTS"] = run_nuts(40 if quick else 1500)
    seconds = time.perf_counter() - started
    print(f"{'NUTS (non-centred)':24s}{'':20s}{summary(clouds['NUTS'])}{seconds:9.0f}")
    print("\ngap: log evidence - ELBO in nats; ess: efficiency of importance weights\n")

    print(card)
    card.plot().savefig(arguments.out / "eight_schools_report.png", dpi=80)
    draw(clouds, arguments.out / "eight_schools.png")


if __name__ == "__main__":
    main()
