"""Data outside of the support of a flow, which a fit refuses by row and column."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from gaussian_flow import GaussianFlow, gaussian_rows, same, weights
from torch import nn
from torch.distributions import constraints
from torch.utils.data import DataLoader

from pyro_nf import flows
from pyro_nf.distributions import Flow
from pyro_nf.infer import fit_density
from pyro_nf.infer._inputs import Expected
from pyro_nf.transforms import ToSupport

torch.set_num_threads(1)


def draws(*rows):
    """Ten good rows of a pair (0.5, 0.5), then the given ones."""
    return torch.cat([torch.full((10, 2), 0.5), torch.tensor(rows)])


BOX = constraints.interval(torch.tensor([0.0, -1.0]), torch.tensor([1.0, 0.75]))
OUTSIDE = {
    "positive": (
        constraints.positive,
        [[0.1, 0.2], [0.3, -0.25], [0.0, 1.0]],
        r"row 11, column 1 is -0.25, not in GreaterThan\(lower_bound=0.0\) \(2 such rows\)",
    ),
    "on the bound": (constraints.positive, [[0.0, 1.0]], "row 10, column 0 is 0.0"),
    "interval": (
        BOX,
        [[0.1, 0.875]],
        r"row 10, column 1 is 0.875, not in Interval\(lower_bound=-1.0, upper_bound=0.75\)",
    ),
    "list": (
        [constraints.real, constraints.less_than(2.0)],
        [[-9.0, 1.0], [0.0, 2.5]],
        r"row 11, column 1 is 2.5, not in LessThan\(upper_bound=2.0\) \(1 such rows\)",
    ),
    "list of one kind": (
        [constraints.interval(0, 1), constraints.interval(0, 4)],
        [[0.5, 3.0], [3.0, 0.5]],
        r"row 11, column 0 is 3.0, not in Interval\(lower_bound=0.0, upper_bound=1.0\)",
    ),
    "simplex": (
        constraints.simplex,
        [[0.25, 0.75], [0.5, 0.75]],
        r"row 11 is \[0.5, 0.75\], not in Simplex\(\) \(1 such rows\)",
    ),
}


def constrained(support):
    return flows.maf(1 if support is constraints.simplex else 2, hidden_dims=(4,), support=support)


@pytest.mark.parametrize("case", OUTSIDE)
@pytest.mark.parametrize("given", ["data", "validation", "loader", "held-out loader"])
def test_names_the_first_row_outside_of_the_support(case, given):
    support, rows, message = OUTSIDE[case]
    good, bad = draws(), draws(*rows)
    flow = constrained(support)
    before = weights(flow)
    data = {"data": bad, "loader": DataLoader(bad, batch_size=20)}.get(given, good)
    held_out = {"validation": bad, "held-out loader": DataLoader(bad, batch_size=20)}.get(given)
    with pytest.raises(ValueError, match=f"outside of the flow's support: {message}.* Remove"):
        fit_density(flow, data, validation=held_out, max_steps=2)
    if given != "held-out loader":  # that is read once the layers are initialised
        assert same(before, weights(flow))


def test_later_batches_of_a_loader_are_checked_in_the_first_pass():
    loader = DataLoader(draws([0.5, -1.0], [0.5, 0.5]), batch_size=4)
    seen = []
    with pytest.raises(ValueError, match="the DataLoader's batch outside .* row 2, column 1"):
        fit_density(
            constrained(constraints.positive),
            loader,
            validation=None,
            callback=lambda step, _: seen.append(step),
        )
    assert seen == [1, 2]


def test_every_block_of_rows_is_checked_with_its_context():
    x = torch.rand(9000, 2) + 0.5
    flow = flows.maf(2, context_dim=1, hidden_dims=(4,), support=constraints.positive)
    x[8999, 1] = -1.0
    with pytest.raises(ValueError, match="row 8999, column 1 is -1.0"):
        fit_density(flow, x, context=-torch.ones(9000, 1))  # contexts have no support

    class Shifted(GaussianFlow):
        """A density on the half line above its context."""

        def forward(self, context=None):
            return dist.TransformedDistribution(
                super().forward(context),
                [dist.transforms.ExpTransform(), AboveContext(context)],
            )

    class AboveContext(dist.transforms.AffineTransform):
        def __init__(self, context):
            super().__init__(context, 1.0)

        @property
        def codomain(self):
            return constraints.greater_than(self.loc)

    context = torch.linspace(0, 1, 9000)[:, None]
    data = context + 0.5 * torch.ones(9000, 2)
    assert fit_density(Shifted(context_dim=1), data, context=context, max_steps=1).steps == 1
    data[5000, 0] = 0.25
    with pytest.raises(ValueError, match="row 5000, column 0 is 0.25, not in GreaterThan.*0.55"):
        fit_density(Shifted(context_dim=1), data, context=context)


def test_matrices_and_long_rows_are_described_briefly():
    simplex = flows.maf(9, hidden_dims=(4,), support=constraints.simplex)
    with pytest.raises(ValueError, match=r"row 0 is \[(0.2, ){6}\.\.\.\], not in Simplex"):
        fit_density(simplex, torch.full((5, 10), 0.2))
    layer = ToSupport(constraints.independent(constraints.positive, 2), 3)
    data = torch.ones(5, 2, 3)
    data[3, 1, 2] = -2.0
    matrices = Flow(MatrixNormal(), [layer])
    with pytest.raises(ValueError, match=r"row 3, position \(1, 2\) is -2.0"):
        fit_density(matrices, data)


class MatrixNormal(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2, 3))

    def forward(self, context=None):
        return dist.Normal(self.loc, 1.0).to_event(2)


def test_without_a_support_the_check_is_one_call():
    calls = []
    flow = GaussianFlow(dropout=0.5)
    flow.register_forward_pre_hook(lambda *_: calls.append(flow.training))
    pyro.set_rng_seed(1)
    before = torch.get_rng_state()
    Expected.by(flow).pair(gaussian_rows(), None)
    assert calls == [False]
    assert torch.equal(torch.get_rng_state(), before)
