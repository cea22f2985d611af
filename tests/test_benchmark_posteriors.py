"""The models that guides are measured on: right densities, and one run for many draws."""

from __future__ import annotations

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from benchmarks._guide_scores import Goal, score, wasserstein_ratio
from benchmarks._posterior_targets import TARGETS
from benchmarks.posteriors import POSTERIORS, flat_regression, hidden_markov, lotka_volterra
from benchmarks.posteriors._priors import flat_ordered
from pyro_nf.infer._latents import LatentSpace, check_steady
from pyro_nf.infer._log_joint import LogJoint

torch.set_num_threads(1)

TWELVE = [0.3, -1.2, 0.8, 1.9, -0.4, 0.1, 2.2, -0.9, 0.6, 1.1, -1.7, 0.5]
COUNTS = [1.0 + abs(value) for value in TWELVE]
FLAGS = [0, 1] * 6
# The fields of the data files, filled with a dozen made-up rows.
RECORDS = {
    "eight_schools-eight_schools_centered": {"y": TWELVE, "sigma": COUNTS},
    "eight_schools-eight_schools_noncentered": {"y": TWELVE, "sigma": COUNTS},
    "earnings-earn_height": {"height": COUNTS, "earn": TWELVE},
    "nes1992-nes": {
        "real_ideo": TWELVE,
        "race_adj": FLAGS,
        "age_discrete": [1, 2, 3, 4] * 3,
        "educ1": COUNTS,
        "gender": FLAGS[::-1],
        "income": COUNTS[::-1],
        "partyid7": COUNTS,
    },
    "mesquite-logmesquite_logvash": {
        "diam1": COUNTS,
        "diam2": COUNTS[::-1],
        "canopy_height": COUNTS,
        "total_height": COUNTS,
        "group": FLAGS,
        "weight": COUNTS,
    },
    "kidiq-kidscore_interaction": {"mom_hs": FLAGS, "mom_iq": COUNTS, "kid_score": TWELVE},
    "sblrc-blr": {"X": [[value, 1.0] for value in TWELVE], "y": COUNTS},
    "arK-arK": {"K": 3, "y": TWELVE},
    "diamonds-diamonds": {"X": [[1.0, a, a * a] for a in TWELVE], "Y": COUNTS},
    "garch-garch11": {"y": TWELVE, "sigma1": 0.5},
    "gp_pois_regr-gp_regr": {"x": [float(i) for i in range(12)], "y": TWELVE},
    "low_dim_gauss_mix-low_dim_gauss_mix": {"y": TWELVE},
    "hmm_example-hmm_example": {"y": COUNTS},
    "hudson_lynx_hare-lotka_volterra": {
        "y_init": [30.0, 4.0],
        "y": [[10 * a, 10 * b] for a, b in itertools.pairwise(COUNTS)],
    },
}
COLUMNS = [14, 14, 3, 10, 7, 5, 3, 5, 4, 4, 3, 5, 6, 8]  # in the order of POSTERIORS


def made_up(name, dtype=torch.float64):
    arguments = POSTERIORS[name].arguments(RECORDS[name])
    return tuple(argument.to(dtype) for argument in arguments)


def log_joint(model, args):
    space = LatentSpace("the test", poutine.trace(model).get_trace(*args))
    return LogJoint(model, args, {}, space)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", POSTERIORS)
def test_one_run_serves_many_draws(name, dtype):
    posterior, args = POSTERIORS[name], made_up(name, dtype)
    check_steady("the test", posterior.model, *args)
    joint = log_joint(posterior.model, args)
    assert joint.particles == "plate"
    assert joint.space.dtype == dtype


@pytest.mark.parametrize(("name", "columns"), list(zip(POSTERIORS, COLUMNS, strict=True)))
def test_draws_become_the_columns_of_the_reference(name, columns):
    posterior, args = POSTERIORS[name], made_up(name)
    space = log_joint(posterior.model, args).space
    values, _ = space.constrain(torch.randn(5, space.dim, dtype=torch.float64))
    assert posterior.constrained(values).shape == (5, columns)


def test_flat_regression_has_the_evidence_and_moments_of_its_closed_form():
    X, y = made_up("earnings-earn_height")
    coefficients, covariance, residual = flat_regression.least_squares(X, y)
    variance = dist.InverseGamma((len(y) - X.shape[1] - 1) / 2, residual / 2)
    squares = variance.sample((100_000,))
    normal = dist.MultivariateNormal(coefficients, squares[:, None, None] * covariance)
    beta, sigma = normal.sample(), squares.sqrt()
    # Of the exact posterior log joint - log q is the log evidence at each of its draws.
    joint = log_joint(flat_regression.flat_regression, (X, y))
    z = torch.cat([beta, sigma.log()[:, None]], -1)
    log_q = normal.log_prob(beta) + variance.log_prob(squares) + (2 * squares).log()
    evidence = torch.full_like(log_q, flat_regression.exact_log_evidence(X, y))
    torch.testing.assert_close(joint(z) - log_q, evidence)
    mean, spread = flat_regression.exact_moments(X, y)
    draws = torch.cat([beta, sigma[:, None]], -1)
    assert ((draws.mean(0) - mean).abs() < 0.02 * spread).all()
    torch.testing.assert_close(draws.std(0), spread, rtol=0.02, atol=0)


def test_forward_algorithm_sums_over_all_paths():
    transitions = torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64)
    emissions = torch.randn(6, 2, dtype=torch.float64)
    total = [
        sum(emissions[t, state] for t, state in enumerate(path))
        + sum(transitions[a, b].log() for a, b in itertools.pairwise(path))
        for path in itertools.product(range(2), repeat=6)
    ]
    computed = hidden_markov.forward_algorithm(transitions.log(), emissions)
    torch.testing.assert_close(computed, torch.stack(total).logsumexp(0))


def test_populations_keep_their_invariant():
    growth = torch.tensor([0.55, -0.8], dtype=torch.float64)
    effect = torch.tensor([-0.028, 0.024], dtype=torch.float64)
    start = torch.tensor([34.0, 5.9], dtype=torch.float64).log()
    path = lotka_volterra.log_populations(start, growth, effect, times=20)
    # δu − γ log u + βv − α log v does not change along an orbit.
    weights = torch.stack([effect[1], -effect[0]]), torch.stack([growth[1], -growth[0]])
    points = torch.cat([start[None], path])
    invariant = points.exp() @ weights[0] + points @ weights[1]
    assert (invariant - invariant[0]).abs().max() < 1e-4
    assert path.exp().std(0).min() > 5  # they do move


def test_flat_densities_add_nothing_and_draw_from_their_support():
    prior = flat_ordered(torch.zeros(2))
    draws = prior.sample((20,))
    assert (draws.diff(dim=-1) > 0).all()
    assert (prior.log_prob(draws) == 0).all()


@pytest.mark.parametrize("name", TARGETS)
def test_exact_draws_satisfy_steins_identity(name):
    target = TARGETS[name]()
    joint = log_joint(target.model, target.args).in_float64()
    z = target.exact(20_000, torch.Generator().manual_seed(0)).requires_grad_()
    (slope,) = torch.autograd.grad(joint(z).sum(), z)
    z = z.detach()
    scale = (z.quantile(0.84, 0) - z.quantile(0.16, 0)) / 2
    u = ((z - z.median(0).values) / scale).tanh()
    zero = slope * scale * u + 1 - u.square()  # E[∇log p · h + h′] = 0 for bounded h
    assert (zero.mean(0).abs() < 4 * zero.std(0) / len(z) ** 0.5).all()


def test_evidence_of_the_eight_schools():
    target = TARGETS["eight"]()
    assert target.log_evidence == pytest.approx(-31.311, abs=1e-3)
    assert TARGETS["eight_centered"]().log_evidence == target.log_evidence
    # By importance sampling from a wide normal distribution, without that quadrature.
    exact = target.exact(4000, torch.Generator().manual_seed(0))
    proposal = dist.MultivariateNormal(exact.mean(0), 2 * torch.cov(exact.T))
    torch.manual_seed(0)
    z = proposal.sample((100_000,))
    joint = log_joint(target.model, target.args).in_float64()
    estimate = (joint(z) - proposal.log_prob(z)).logsumexp(0) - math.log(len(z))
    assert estimate.item() == pytest.approx(target.log_evidence, abs=0.03)


def test_score_of_exact_draws_is_perfect():
    generator = torch.Generator().manual_seed(0)
    draws = TARGETS["gauss"]().exact(60_000, generator)
    own, reference = draws[:20_000], draws[20_000:].unflatten(0, (20, 2000))
    log_q = own.sum(-1)
    perfect = score(
        log_q - 3, log_q, own, reference, log_evidence=-3.0, has_moments=True, has_modes=False
    )
    assert abs(perfect.gap) < 1e-9
    assert perfect.ess == pytest.approx(1.0)
    assert perfect.w1 == pytest.approx(1.0, abs=0.1)
    assert perfect.mean_error < 0.03
    assert Goal(gap=0.005, w1=1.25, mean_error=0.1, sd_error=0.05).misses(perfect) == []


def test_score_of_shifted_draws_misses_the_goal():
    generator = torch.Generator().manual_seed(0)
    draws = TARGETS["banana"]().exact(20_000, generator).unflatten(0, (10, 2000))
    shifted = draws[:5] + 0.3 * draws[:5].std(1, keepdim=True)
    assert wasserstein_ratio(shifted, draws[5:]) > 3
    rows = shifted.flatten(0, 1)
    poor = score(
        rows.sum(-1),
        rows[:, 0],
        rows,
        draws[5:],
        log_evidence=0.0,
        has_moments=True,
        has_modes=False,
    )
    assert {"W1", "mean"} <= set(Goal(w1=1.25, mean_error=0.1).misses(poor))
