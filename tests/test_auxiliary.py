"""The channel for side results: what is collected, from whom, and what is computed for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.transforms import ActNorm, FlowTransform

torch.set_num_threads(1)


class Reporting(FlowTransform):
    """The identity, reporting each row's squared norm."""

    input_dim = 2

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.record("norm", x.square().sum(-1))
        return x, x.new_zeros(x.shape[:-1])

    inverse_and_ladj = forward_and_ladj


def test_auxiliary_collects_per_sample_and_adds_over_layers() -> None:
    flow = Flow(DiagonalNormal(2), [Reporting(), ActNorm(2), Reporting().inv])
    x = torch.randn(5, 2)
    with flow.auxiliary() as results:
        flow().log_prob(x)
    assert list(results) == ["norm"]
    torch.testing.assert_close(results["norm"], 2 * x.square().sum(-1))
    other = Flow(DiagonalNormal(2), Reporting())
    with flow.auxiliary() as results:
        other().log_prob(x)
    assert results == {}


class Costly(Reporting):
    """Reports a side result of its own only where it is wanted."""

    side_results = ("norm", "costly")
    computed = 0

    def forward_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.wanted("costly"):
            self.computed += 1
            self.record("costly", x.abs().sum(-1))
        return super().forward_and_ladj(x, context)

    inverse_and_ladj = forward_and_ladj


def test_auxiliary_collects_by_name_what_is_wanted() -> None:
    layer = Costly()
    flow = Flow(DiagonalNormal(2), [layer, ActNorm(2), layer])
    x = torch.randn(5, 2)
    flow().log_prob(x)
    with flow.auxiliary(["norm"]) as outer:
        assert layer.wanted("norm")
        assert not layer.wanted("costly")
        flow().log_prob(x)
        assert (layer.computed, list(outer)) == (0, ["norm"])
        with flow.auxiliary(["costly", "other"]) as inner, flow.auxiliary([]) as nothing:
            flow().log_prob(x)
    assert (layer.computed, nothing) == (2, {})
    assert (list(outer), list(inner)) == (["norm"], ["costly"])
    torch.testing.assert_close(inner["costly"], 2 * x.abs().sum(-1))
    torch.testing.assert_close(outer["norm"], 4 * x.square().sum(-1))
    assert not layer.wanted("norm")
    with flow.auxiliary() as everything:
        flow().log_prob(x)
    assert sorted(everything) == ["costly", "norm"]
    with pytest.raises(TypeError, match=r"names='norm'. Pass a list of names: \['norm'\]"):
        flow.auxiliary("norm").__enter__()
    assert flow.aux_weights == {}
