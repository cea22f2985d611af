"""The pictures of the report card."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from report_models import gaussian, gaussian_guide

from pyro_nf import plot
from pyro_nf.infer import GuideFit, report
from pyro_nf.infer.autoguide import AutoFlow


def test_card_draws_four_pictures():
    fit = GuideFit(None, 0.0, 0.01, 0.0, 0.0, 1.0, 0.0, losses=[3.0, 2.0, 1.0])
    guide = gaussian_guide(scale=1.2)
    figure = report(gaussian, guide, fit=fit, num_draws=500, detector=False).plot()
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [
        "course of the fit",
        "tail of the weights",
        "what reweighting moves most",
        "posterior in the base space",
    ]
    assert figure.axes[0].get_ylabel() == "ELBO (nats)"
    without = report(gaussian, guide, num_draws=500, detector=False).plot()
    assert without.axes[0].get_title() == "log weights"


def test_card_of_one_dimension_draws_too():
    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    guide = AutoFlow(model, init_scale=1.1).setup()
    figure = report(model, guide, num_draws=500, detector=False).plot()
    assert figure.axes[2].get_xlabel() == "z"
    assert figure.axes[3].get_xlabel() == "base 1"


def test_tail_of_pareto_weights_is_a_line():
    k = 0.5
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(0)).double()
    ax = plot.weight_tail(-k * torch.log(u))  # w = u^-k, so P(w > t) = t^(-1/k)
    draws, tail, _ = ax.lines
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert len(draws.get_xdata()) == 20_000
    slope = np.polyfit(np.log(tail.get_xdata()), np.log(tail.get_ydata()), 1)[0]
    assert slope == pytest.approx(-1 / k, rel=0.15)
    assert tail.get_label().startswith("Pareto tail, k̂ = 0.")


def test_tail_ignores_zero_weights_and_refuses_none():
    weights = torch.randn(500)
    weights[:10] = -math.inf
    ax = plot.weight_tail(weights)
    assert ax.lines[0].get_ydata().max() == pytest.approx(490 / 500)
    with pytest.raises(ValueError, match=r"log_weights of shape \(0,\). Pass shape \(rows,\)"):
        plot.weight_tail(torch.zeros(0))


def test_reweighted_moves_to_the_posterior():
    draws = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    ax = plot.reweighted(draws, draws[:, 0], ("a", "b"))
    raw, weighted = (line.get_xdata() for line in ax.lines)
    assert raw.mean() == pytest.approx(0.0, abs=0.1)
    assert weighted.mean() == pytest.approx(1.0, abs=0.1)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("a", "b")
    with pytest.raises(ValueError, match=r"log_weights of shape \(3,\). Pass shape \(4000,\)"):
        plot.reweighted(draws, torch.zeros(3))


def test_base_space_shows_what_departs():
    draws = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    draws[:, 2] *= 3.0
    ax = plot.base_space(draws)
    assert ax.get_xlabel() == "base 3"
    assert len(ax.lines[0].get_xdata()) == 1000
    assert ax.get_aspect() == 1


def test_k_hats_names_what_is_bad():
    ax = plot.k_hats(torch.tensor([0.2, 0.8, math.inf]), ["a", "b", "c"])
    assert [text.get_text() for text in ax.texts] == ["b"]
    assert ax.get_title() == "2 of 3 above .7"
    with pytest.raises(ValueError, match="2 names for 1 observations"):
        plot.k_hats([0.1], ["a", "b"])


def test_pairs_of_raw_and_reweighted():
    figure = plot.pairs(torch.randn(90, 2), torch.randn(90, 2), labels=("reweighted", "raw"))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["reweighted", "raw"]
