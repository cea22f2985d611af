"""The fields that flow matching trains: each row at a time of its own."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.infer import fit_flow_matching
from pyro_nf.nn import FieldConv, FieldMLP, PotentialField
from pyro_nf.transforms import Continuous

torch.set_num_threads(1)


class OwnField(nn.Module):
    """A module as users write them, which notes the times it was given."""

    def __init__(self, context_dim=0):
        super().__init__()
        self.linear = nn.Linear(3 + context_dim, 2)
        self.times = []

    def forward(self, t, z, *context):
        self.times.append(t.detach())
        return self.linear(torch.cat([z, t.expand(len(z), 1), *context], 1))


@pytest.mark.parametrize("context_dim", [0, 1])
def test_own_fields_get_a_time_for_each_row(context_dim):
    field = OwnField(context_dim)
    layer = Continuous(field, 2, context_dim=context_dim, end_time=2.0)
    flow = Flow(DiagonalNormal(2), layer)
    context = torch.randn(40, 1) if context_dim else None
    fit_flow_matching(flow, torch.randn(40, 2), context=context, max_steps=3, validation=None)
    assert field.times[0].ndim == 0  # the first rows are scored
    assert field.times[-1].shape == (40, 1)
    times = torch.cat([t for t in field.times if t.shape == (40, 1)])
    assert 0 <= times.min() < 0.2
    assert 1.8 < times.max() < 2


def test_images_are_trained():
    torch.manual_seed(0)
    flow = Flow(ImageNormal(), Continuous(FieldConv(1, (4,)), (1, 3, 3), eval_trace="hutchinson"))
    x = 0.5 * torch.randn(60, 1, 3, 3) + 3
    result = fit_flow_matching(flow, x, max_steps=60, learning_rate=3e-2, patience=None)
    assert result.best_loss < 0.7 * result.validation_losses[0][1]


class ImageNormal(nn.Module):
    def forward(self, context=None):
        return dist.Normal(torch.zeros(1, 3, 3), 1.0).to_event(3)


class OneTime(OwnField):
    """A module that takes one time alone."""

    def forward(self, t, z, *context):
        return super().forward(torch.full((), float(t)), z, *context)


class Averaged(OwnField):
    """A module that loses the rows where each has a time."""

    def forward(self, t, z, *context):
        velocity = super().forward(t, z, *context)
        return velocity.mean(0) if t.ndim else velocity


@pytest.mark.parametrize(
    ("field", "message"),
    [(OneTime, r"t of shape \(2, 1\).*raised ValueError"), (Averaged, r"returned shape \(2,\)")],
)
def test_fields_that_cannot_take_many_times_are_refused(field, message):
    with pytest.raises(ValueError, match=f"calls the field .*{message}.*broadcasts"):
        fit_flow_matching(Flow(DiagonalNormal(2), Continuous(field(), 2)), torch.randn(40, 2))


FIELDS = {
    **{
        f"mlp {time} {widths}": lambda time=time, widths=widths: FieldMLP(
            2, widths, context_dim=3, time=time
        )
        for time in ("concatsquash", "concat", "none")
        for widths in ((), (5,), (5, 4))
    },
    "potential": lambda: PotentialField(2, 4, layers=3, context_dim=3),
    "convolution": lambda: FieldConv(2, (3,), context_dim=3),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_time_for_each_row_is_that_rows_time(name):
    torch.manual_seed(0)
    field = FIELDS[name]().double()
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    event = (2, 3, 4) if name == "convolution" else (2,)
    # As many rows as a hidden layer has units: a time on the wrong axis would go unseen.
    z, context = torch.randn(5, *event).double(), torch.randn(5, 3).double()
    t = torch.rand(5, *[1] * len(event)).double()
    together = field(t, z, context)
    alone = [field(t[i].squeeze(), z[i : i + 1], context[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert together.shape == z.shape
