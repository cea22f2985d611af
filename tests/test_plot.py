"""The pictures: what they draw, what they refuse, and that they need matplotlib only when used."""

from __future__ import annotations

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_nf import plot
from pyro_nf.infer import FitResult, fit_density

torch.set_num_threads(1)


class SkewedFlow(nn.Module):
    """The interface of a flow around a fixed affine map of the plane, shifted by the context."""

    def __init__(self, context_dim=0):
        super().__init__()
        self.context_dim, self.event_shape = context_dim, torch.Size([2])
        self.loc = nn.Parameter(torch.tensor([1.0, -1.0]))
        self.register_buffer("tril", torch.tensor([[0.5, 0.0], [0.8, 0.3]]))
        self.dropout = nn.Dropout(0.5)

    def forward(self, context=None):
        loc = self.dropout(self.loc) if context is None else context
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        return dist.TransformedDistribution(
            base, [dist.transforms.LowerCholeskyAffine(loc, self.tril)]
        )


def test_density_is_that_of_the_flow():
    flow = SkewedFlow()
    ax = plot.density(flow, bounds=((-1, 2), (-4, 2)), resolution=30)
    image = ax.images[0]
    pixels = np.asarray(image.get_array())
    exact = dist.MultivariateNormal(flow.loc, scale_tril=flow.tril)
    # Row i is the second coordinate from below, column j the first from the left.
    y = torch.tensor([-1 + 3 * (7 + 0.5) / 30, -4 + 6 * (19 + 0.5) / 30])
    assert image.origin == "lower"
    assert image.get_extent() == [-1, 2, -4, 2]
    assert pixels[19, 7] == pytest.approx(exact.log_prob(y).exp().item(), rel=1e-4)
    assert pixels.sum() * (3 / 30) * (6 / 30) == pytest.approx(1, abs=0.05)
    assert ax.get_aspect() == 1
    assert flow.training  # the mode is given back


def test_density_draws_data_and_takes_their_bounds():
    data = np.array([[0.0, 0.0], [10.0, 5.0], [4.0, 4.0]])
    ax = plot.density(SkewedFlow(), data, resolution=10)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), data)
    assert ax.get_xlim() == pytest.approx((-1, 11))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["data"]
    crowd = plot.density(SkewedFlow(), torch.randn(500, 2), max_points=100, resolution=10)
    assert len(crowd.lines[0].get_xydata()) == 100


def test_density_takes_bounds_from_draws():
    ax = plot.density(SkewedFlow(), resolution=10)
    assert ax.get_xlim()[0] < 0 < 2 < ax.get_xlim()[1]


def test_context_moves_both_pictures():
    flow = SkewedFlow(context_dim=2)
    here = plot.density(flow, context=torch.tensor([5.0, 5.0]), resolution=40)
    pixels = np.asarray(here.images[0].get_array())
    row, column = np.unravel_index(pixels.argmax(), pixels.shape)
    x0, x1, y0, y1 = here.images[0].get_extent()
    assert x0 + (column + 0.5) / 40 * (x1 - x0) == pytest.approx(5, abs=0.2)
    assert y0 + (row + 0.5) / 40 * (y1 - y0) == pytest.approx(5, abs=0.4)
    ax = plot.grid(flow, context=np.array([5.0, 5.0]), lines=3)
    assert ax.dataLim.x0 > 3


def test_grid_is_the_base_grid_pushed_through():
    flow = SkewedFlow().eval()
    ax = plot.grid(flow, extent=2.0, lines=5, resolution=7)
    first, second = (family.get_segments() for family in ax.collections)
    assert (len(first), len(second)) == (5, 5)
    assert {len(line) for line in first + second} == {7}
    corner = (flow.loc + flow.tril @ torch.tensor([-2.0, 2.0])).detach()
    np.testing.assert_allclose(first[0][-1], corner, rtol=1e-5)  # x1 = -2, x2 up to 2
    np.testing.assert_allclose(second[-1][0], corner, rtol=1e-5)  # x2 = 2, x1 from -2
    assert ax.get_aspect() == 1
    assert len(ax.get_legend().get_texts()) == 2


def test_pairs_draws_a_triangle():
    figure = plot.pairs(torch.randn(900, 3), np.random.default_rng(0).normal(size=(50, 3)))
    cells = figure.axes
    assert len(cells) == 6
    scatters = [ax for ax in cells if ax.lines]
    assert len(scatters) == 3
    assert [len(line.get_xdata()) for line in scatters[0].lines] == [50, 50]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["data", "samples"]
    assert {ax.get_xlabel() for ax in cells} == {"", "$y_{1}$", "$y_{2}$", "$y_{3}$"}


def test_pairs_follows_the_data():
    samples = torch.randn(50, 2)
    samples[0] = 1e6
    figure = plot.pairs(torch.rand(100, 2), samples, names=["height", "weight"])
    assert all(ax.get_xlim()[1] < 2 for ax in figure.axes)
    assert figure.axes[1].get_ylabel() == "weight"


def test_losses_draws_both_curves_and_the_kept_step():
    train = [1e4] * 5 + [2.0 + 0.01 * i for i in range(195)]
    train[50] = float("nan")
    result = FitResult(train, [(0, 9.0), (100, 2.5), (200, 2.75)], best_step=100, steps=200)
    ax = result.plot()
    raw, mean, held_out, kept = ax.lines
    np.testing.assert_allclose(raw.get_ydata(), train)
    assert mean.get_ydata()[60] == pytest.approx(np.mean(train[57:61]))
    assert np.isfinite(mean.get_ydata()).all()
    assert held_out.get_xydata().tolist() == [[0, 9.0], [100, 2.5], [200, 2.75]]
    assert kept.get_xdata()[0] == 100
    assert ax.get_ylim()[1] < 10  # the first steps do not flatten the rest


def test_losses_of_fits_without_held_out_rows_or_steps():
    assert len(plot.losses(FitResult([2.0, 1.0], best_step=2, steps=2)).lines) == 3
    assert len(plot.losses(FitResult()).lines) == 2


def test_losses_are_in_their_unit():
    assert plot.losses(FitResult()).get_ylabel() == "loss (nats per datum)"
    result = FitResult([1.0], steps=1, unit="squared velocity per datum")
    assert "squared velocity" in plot.losses(result).get_ylabel()


def test_evaluations_are_drawn_against_the_step():
    counts = [(20, 26), (26, 32), (32, 38)]
    ax = plot.evaluations(FitResult(evaluations=counts))
    for line, values in zip(ax.lines, zip(*counts, strict=True), strict=True):
        assert line.get_xdata().tolist() == [1, 2, 3]
        assert line.get_ydata().tolist() == list(values)
    assert ax.get_ylim()[0] == 0
    without = plot.evaluations(FitResult(evaluations=[(20, 0)] * 3), ax=plt.figure().gca())
    assert [line.get_label() for line in without.lines] == ["forward"]
    with pytest.raises(ValueError, match="solved no equation. Pass that of fit_density"):
        plot.evaluations(FitResult([1.0], steps=1))


def test_axes_may_be_given():
    figure, (left, right) = plt.subplots(1, 2)
    assert plot.density(SkewedFlow(), resolution=5, ax=left) is left
    assert plot.grid(SkewedFlow(), lines=3, ax=right) is right
    assert plt.get_fignums() == [figure.number]


def test_refuses_other_dimensions():
    flow = SkewedFlow()
    flow.event_shape = torch.Size([3])
    for picture in (plot.density, plot.grid):
        with pytest.raises(ValueError, match=r"event shape \(3,\); it draws the plane. Use pairs"):
            picture(flow)
    with pytest.raises(ValueError, match=r"data of shape \(4, 3\). Pass shape \(rows, 2\)"):
        plot.density(SkewedFlow(), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"samples of shape \(4, 2\). Pass shape \(rows, 3\)"):
        plot.pairs(torch.zeros(4, 3), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="2 names for 3 columns"):
        plot.pairs(torch.zeros(4, 3), torch.zeros(4, 3), names=["a", "b"])


def test_matplotlib_is_asked_for_only_when_drawing():
    code = """
import sys
sys.modules["matplotlib"] = None  # as if it were not installed
from pyro_nf import infer, plot
try:
    infer.FitResult().plot()
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "pyro_nf[plot]"' in done.stdout, done.stderr


def test_course_of_a_real_fit():
    class Fitted(SkewedFlow):
        def initialize(self, x, context=None):
            pass

    result = fit_density(Fitted(), torch.randn(100, 2), max_steps=20, validate_every=5)
    assert len(plot.losses(result).lines[2].get_xdata()) == 5
