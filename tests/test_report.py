"""The report card: its verdicts, and what its detectors see and spare."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import planar
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormalizingFlow
from report_models import LOC, TRIL, gaussian, gaussian_guide, two_modes

from benchmarks._posterior_targets import eight, funnel
from pyro_nf.infer import GuideFit
from pyro_nf.infer._log_joint import LogJoint
from pyro_nf.infer._psis import Diagnostics, diagnostics
from pyro_nf.infer._report import lost_modes
from pyro_nf.infer._report.card import Line, ReportCard
from pyro_nf.infer._report.lost_modes import Target, check_optima
from pyro_nf.infer._report.sites import site_moments
from pyro_nf.infer._report.weights import most_k_hat, weight_lines
from pyro_nf.infer.autoguide import AutoFlow
from pyro_nf.infer.report import report

torch.set_num_threads(1)


@pytest.fixture
def quick(monkeypatch):
    """Half of the temperatures, enough for these targets."""
    monkeypatch.setattr(lost_modes, "_TEMPERATURES", 150)


def test_exact_guide_is_good(quick):
    card = report(gaussian, gaussian_guide(), num_draws=4000)
    assert card.verdict == "good"
    assert card.lost_mode is False
    assert {line.verdict for line in card.lines} == {"good"}
    assert card.diagnostics.log_evidence == pytest.approx(0.0, abs=1e-4)
    names = [line.name for line in card.lines]
    assert names[:6] == [
        "ELBO",
        "log evidence",
        "k_hat",
        "ESS",
        "var(log w)",
        "non-finite weights",
    ]
    assert names[6:] == ["site x", "site pair", "lost modes: annealing"]


def test_repr_is_a_table():
    card = report(gaussian, gaussian_guide(), num_draws=500, detector=False)
    title, header, *rows = repr(card).splitlines()
    assert title == "ReportCard: good; lost modes cannot be ruled out"
    assert header.split() == ["value", "verdict", "reading"]
    assert len(rows) == len(card.lines)
    start = header.index("verdict")
    assert all(row[start:].startswith(("good", "unknown")) for row in rows)
    with pytest.raises(KeyError, match="no line 'ess'. It has: ELBO, log evidence"):
        card["ess"]


def test_table_shows_the_worst_sites():
    lines = [Line(f"site {i}", "", "good", "") for i in range(40)]
    lines[33] = dataclasses.replace(lines[33], verdict="do not use")
    numbers = diagnostics(torch.zeros(50), torch.zeros(50))
    table = repr(ReportCard(lines, numbers))
    assert "site 33" in table
    assert "(30 more sites" in table


def test_narrow_guide_is_not_good():
    card = report(gaussian, gaussian_guide(scale=0.5), num_draws=4000, detector=False)
    assert card.verdict == "do not use"
    assert card["k_hat"].verdict == "do not use"


def test_shifted_guide_is_of_use_with_reweighting():
    guide = gaussian_guide(scale=1.2, shift=torch.tensor([0.3, 0.0, 0.0]))
    card = report(gaussian, guide, num_draws=4000, detector=False)
    assert card.verdict == "usable with reweighting"
    assert card["site x"].verdict == "usable with reweighting"
    assert card["site x"].value.startswith("mean +0.")


@pytest.mark.parametrize("dim", [2, 5])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_detector_fires_where_a_mode_is_lost(quick, dim, share):
    model, guide = two_modes(dim, share)
    card = report(model, guide, num_draws=2000)
    assert card.lost_mode is True
    assert card.verdict == "do not use"
    assert card["k_hat"].verdict == "good"  # the weights do not see it
    excess = card.annealed.log_evidence - card.diagnostics.log_evidence
    assert excess == pytest.approx(-math.log(share), abs=0.2)


def test_detector_at_its_defaults():
    model, guide = two_modes(3, 0.5)
    card = report(model, guide, num_draws=2000)
    assert float(card["lost modes: annealing"].value.split()[0]) == pytest.approx(0.69, abs=0.1)
    assert len(card.annealed.temperatures) == 301


def test_detector_spares_a_narrow_correlated_posterior(quick):
    tril = torch.eye(6).mul(0.05)
    tril[:, 0] = 1.0

    def model():
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(6), scale_tril=tril))

    guide = AutoFlow(model).setup()
    guide.posterior.whitening.move(torch.zeros(6), tril)
    card = report(model, guide, num_draws=2000)
    assert card.lost_mode is False


def test_detector_spares_eight_schools_under_an_affine_guide():
    target = eight()
    rows = target.exact(20_000, torch.Generator().manual_seed(0))
    guide = AutoFlow(target.model).setup(*target.args)
    guide.posterior.whitening.move(rows.mean(0), torch.linalg.cholesky(torch.cov(rows.T)))
    card = report(target.model, guide, *target.args)
    assert card.lost_mode is False
    assert card.diagnostics.log_evidence == pytest.approx(target.log_evidence, abs=0.1)


def test_detector_spares_a_mild_funnel(quick):
    def model():
        v = pyro.sample("v", dist.Normal(0.0, 1.0))
        with pyro.plate("coordinates", 2):
            pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))

    guide = AutoFlow(model).setup()
    guide.posterior.whitening.move(torch.zeros(3), torch.tensor([1.0, 1.3, 1.3]).diag())
    card = report(model, guide)
    assert not card.lost_mode


def optima_line(model, guide, optima, *args):
    target = Target.of(LogJoint(model, args, {}, guide.latents))
    q = guide.get_posterior()
    with torch.no_grad():
        z = q.sample((1000,))
        numbers = diagnostics(target(z), q.log_prob(z))
        return check_optima(target, q, optima, numbers)


def test_optima_of_the_fit_show_a_lost_mode():
    model, guide = two_modes(3, 0.5)
    here, there = torch.zeros(2, 3, dtype=torch.float64)
    there[0] = 8.0
    line, fires = optima_line(model, guide, [here, there])
    assert fires
    assert "about 100 % of the guide's mass" in line.reading
    line, fires = optima_line(model, guide, [here])
    assert not fires
    assert line.verdict == "good"


def test_optima_without_mass_are_no_modes():
    target = funnel(input_dim=4)
    guide = AutoFlow(target.model).setup()
    guide.posterior.whitening.move(torch.zeros(4), torch.eye(4))
    neck = torch.zeros(4, dtype=torch.float64)
    neck[0] = -13.5  # the mode of the density, at v = -9 * 3 / 2
    line, fires = optima_line(target.model, guide, [neck])
    assert not fires
    assert float(line.value.split()[0]) > 4
    assert "that hold mass" in line.reading


def test_optima_of_a_fit_reach_the_card():
    model, guide = two_modes(2, 0.5)
    there = torch.tensor([8.0, 0.0])
    fit = GuideFit(guide, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, optima=[torch.zeros(2), there])
    card = report(model, guide, fit=fit, num_draws=500, detector=False)
    assert card["lost modes: optima"].verdict == "do not use"
    assert card.lost_mode is True


def numbers_of(**changes):
    numbers = Diagnostics(
        elbo=-1.0,
        elbo_se=0.01,
        log_evidence=-0.99,
        log_evidence_se=0.01,
        k_hat=0.3,
        ess=0.98,
        var_log_w=0.02,
        draws=10_000,
        non_finite=0,
    )
    return dataclasses.replace(numbers, **changes)


def verdicts(**changes):
    return {line.name: line.verdict for line in weight_lines(numbers_of(**changes))}


def test_k_hat_is_ignored_near_perfection():
    assert set(verdicts(k_hat=1.33, var_log_w=0.005).values()) == {"good"}
    late = verdicts(k_hat=1.33, var_log_w=0.05)
    assert late["k_hat"] == "do not use"
    assert late["log evidence"] == "do not use"


def test_verdicts_on_weights():
    assert verdicts(k_hat=0.6)["k_hat"] == "usable with reweighting"
    assert verdicts(log_evidence=-0.8)["log evidence"] == "usable with reweighting"
    assert verdicts(ess=0.3)["ESS"] == "usable with reweighting"
    assert verdicts(ess=0.03)["ESS"] == "do not use"
    assert verdicts(var_log_w=1.0)["var(log w)"] == "usable with reweighting"
    assert verdicts(non_finite=5)["non-finite weights"] == "usable with reweighting"
    assert verdicts(non_finite=500)["non-finite weights"] == "do not use"
    assert most_k_hat(10_000) == 0.7
    assert most_k_hat(1000) == pytest.approx(2 / 3)


def test_moments_of_a_site_are_those_of_importance_sampling():
    x = torch.randn(50_000, 2, generator=torch.Generator().manual_seed(1)).double()
    moments = site_moments(x, 0.5 * x[:, 0])  # N(0.5, 1) by weight in the first, N(0, 1) else
    np.testing.assert_allclose(moments.shift, [0.5, 0.0], atol=0.02)
    np.testing.assert_allclose(moments.stretch, [1.0, 1.0], atol=0.03)
    assert moments.k_hat < 0.5
    assert not moments.constant


def test_a_point_has_no_good_card():
    guide = AutoDelta(gaussian)
    card = report(gaussian, guide, num_draws=30)
    assert card.verdict == "do not use"
    assert "a point" in card["site x"].reading


def test_constant_elements_do_not_count():
    x = torch.randn(1000, 3)
    x[:, 1] = 1.0  # as in the corner of a Cholesky factor
    moments = site_moments(x, torch.zeros(1000))
    assert not moments.constant
    np.testing.assert_allclose(moments.shift, 0.0, atol=1e-12)
    np.testing.assert_allclose(moments.stretch, 1.0, atol=1e-12)


def test_subsampled_data_leave_the_weights_unknown():
    data = torch.randn(20, generator=torch.Generator().manual_seed(0))

    def model(data):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(data), subsample_size=5) as rows:
            pyro.sample("y", dist.Normal(mean, 1.0), obs=data[rows])

    guide = AutoFlow(model).setup(data)
    card = report(model, guide, data, num_draws=200)
    assert card.verdict == "unknown"
    assert card.lost_mode is None
    for name in ("ELBO", "k_hat", "ESS", "log evidence", "site mean", "lost modes: annealing"):
        assert card[name].verdict == "unknown"
    assert "subsampled" in card["k_hat"].reading
    # The error is that of the mini-batches, not only that of the draws.
    assert float(card["ELBO"].value.split()[-1]) > 2 * card.diagnostics.elbo_se


def exact_multivariate_normal():
    guide = AutoMultivariateNormal(gaussian)
    guide()
    guide.loc.data.copy_(LOC)
    guide.scale = TRIL.diagonal().clone()
    guide.scale_tril = TRIL / TRIL.diagonal()[:, None]
    return guide


def test_guide_of_pyro(quick):
    card = report(gaussian, exact_multivariate_normal(), num_draws=4000)
    assert card.verdict == "good"
    assert card.lost_mode is False


def test_guide_written_by_hand():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    def guide(y):
        pyro.sample("z", dist.Normal(y / 2, 0.5**0.5))

    y = torch.tensor(0.6)
    card = report(model, guide, y, num_draws=400)
    assert card.verdict == "good"
    assert card.diagnostics.log_evidence == pytest.approx(
        dist.Normal(0.0, 2**0.5).log_prob(y).item(), abs=1e-4
    )
    assert card.lost_mode is None
    assert card["lost modes: annealing"].verdict == "unknown"
    assert len(card.plot().axes) == 4


def test_guide_without_a_way_back():
    guide = AutoNormalizingFlow(gaussian, planar)
    card = report(gaussian, guide, num_draws=200, detector=False)
    assert card.weighed.base is None
    assert len(card.plot().axes) == 4


def test_model_that_runs_point_by_point_is_not_annealed():
    def model():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        if x.item() > 100:
            raise ValueError("never")

    guide = AutoFlow(model, init_scale=1.0).setup()
    card = report(model, guide, num_draws=50)
    assert "point by point" in card["lost modes: annealing"].reading
    assert card.lost_mode is None


def test_no_finite_weight():
    def model():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("nowhere", torch.where(x > 50, 0.0, -math.inf))

    guide = AutoFlow(model, init_loc_fn=lambda site: torch.tensor(0.0)).setup()
    card = report(model, guide, num_draws=100)
    assert card.verdict == "do not use"
    assert card["site x"].verdict == "unknown"
    with pytest.raises(ValueError, match="nothing to draw: no draw has a finite weight"):
        card.plot()


def test_restarts():
    def line(restarts):
        fit = GuideFit(None, 0.0, 0.01, 0.0, 0.0, 1.0, 0.0, restarts=restarts)
        card = report(gaussian, gaussian_guide(), fit=fit, num_draws=100, detector=False)
        return card["restarts"]

    assert line([-1.0, -1.05, -7.0]).verdict == "good"
    assert "2 of 3" in line([-1.0, -1.05, -7.0]).reading
    assert line([-1.0, -2.0]).verdict == "unknown"


def test_seed_decides_and_global_generator_stays():
    guide = gaussian_guide(scale=1.3)
    state = torch.get_rng_state()
    first = report(gaussian, guide, num_draws=100, detector=False)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    again = report(gaussian, guide, num_draws=100, detector=False)
    other = report(gaussian, guide, num_draws=100, detector=False, seed=1)
    assert first.diagnostics == again.diagnostics
    assert first.diagnostics != other.diagnostics


def test_float64_and_keywords():
    def model(*, y):
        z = pyro.sample("z", dist.Normal(y.new_zeros(()), 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    y = torch.tensor(0.6, dtype=torch.float64)
    guide = AutoFlow(model).setup(y=y)
    guide.posterior.whitening.move(y[None] / 2, torch.tensor([[0.5]]).double().sqrt())
    card = report(model, guide, model_kwargs={"y": y}, num_draws=500, detector=False)
    assert card.verdict == "good"
    assert card.diagnostics.var_log_w < 1e-20


def observed_only():
    pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.tensor(0.5))


def test_refuses_no_draws_and_no_latents():
    with pytest.raises(ValueError, match="no latent that model and guide share"):
        report(observed_only, lambda: None, num_draws=10)
    with pytest.raises(ValueError, match="is not covered by the guide"):
        report(gaussian, lambda: None, num_draws=10)
    with pytest.raises(ValueError, match="report got num_draws=0"):
        report(gaussian, gaussian_guide(), num_draws=0)
