"""Layers that take their location and scale from data: ActNorm, Standardize, BatchNorm."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import jacrev

from pyro_nf.transforms.actnorm import ActNorm
from pyro_nf.transforms.batchnorm import BatchNorm
from pyro_nf.transforms.compose import Compose
from pyro_nf.transforms.permutation import Permutation
from pyro_nf.transforms.standardize import Standardize

torch.set_num_threads(1)

FROM_DATA = [ActNorm, Standardize, BatchNorm]
DIRECTIONS = ["forward_and_ladj", "inverse_and_ladj"]


def build(kind, size, scale=1.0, dtype=torch.float64):
    """A layer in evaluation mode with random parameters and statistics."""
    layer = kind(size).to(dtype).eval()
    with torch.no_grad():
        for name, value in [*layer.named_parameters(), *layer.named_buffers()]:
            if name == "running_var":
                value.copy_((scale * torch.randn_like(value)).exp())
            elif value.is_floating_point():
                value.add_(scale * torch.randn_like(value))
    return layer


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("kind", FROM_DATA)
def test_log_det_and_round_trip(kind, size, scale):
    layer = build(kind, size, scale)
    x = torch.randn(3, size, dtype=torch.float64)
    y, ladj = layer.forward_and_ladj(x)
    back, inverse_ladj = layer.inverse_and_ladj(y)
    jacobian = jacrev(lambda row: layer.forward_and_ladj(row)[0])(x[0])
    expected = torch.linalg.slogdet(jacobian)[1].expand(3)
    torch.testing.assert_close(ladj, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(inverse_ladj, -expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(back, x, atol=1e-8, rtol=0)


@pytest.mark.parametrize("batch", [(), (0,), (1,), (5,), (2, 5)])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", FROM_DATA)
def test_any_batch_shape(kind, direction, mode, batch):
    layer = kind(3).train(mode == "train")
    y, ladj = getattr(layer, direction)(torch.randn(*batch, 3))
    assert (y.shape, ladj.shape) == ((*batch, 3), batch)
    assert y.dtype == ladj.dtype == torch.float32
    assert y.isfinite().all()
    assert ladj.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in layer.buffers())


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", FROM_DATA)
def test_half_precision_and_no_values(kind, direction):
    layer = build(kind, 4, 0.5, torch.bfloat16)
    x = torch.randn(5, 4).bfloat16()
    y, ladj = getattr(layer, direction)(x)
    assert y.dtype == ladj.dtype == torch.bfloat16
    exact, exact_ladj = getattr(copy.deepcopy(layer).double(), direction)(x.double())
    torch.testing.assert_close(y.double(), exact, atol=1e-4, rtol=2**-8)
    torch.testing.assert_close(ladj.double(), exact_ladj, atol=1e-4, rtol=2**-8)
    for mode in (True, False):
        y, ladj = getattr(kind(4).to("meta").train(mode), direction)(x.to("meta", torch.float32))
        assert y.is_meta
        assert ladj.is_meta


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", FROM_DATA)
def test_maps_over_rows_in_evaluation(kind, direction):
    function = getattr(build(kind, 4), direction)
    x = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(function)(x), function(x))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", FROM_DATA)
def test_compiles_without_a_break(kind, direction, mode):
    torch._dynamo.reset()
    layer = build(kind, 4).train(mode == "train")
    plain = copy.deepcopy(layer)
    x = torch.randn(5, 4, dtype=torch.float64)
    compiled = torch.compile(getattr(layer, direction), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), getattr(plain, direction)(x))
    for actual, expected in zip(layer.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", [ActNorm, BatchNorm])
def test_every_parameter_gets_a_gradient(kind, direction):
    layer = build(kind, 3)
    y, ladj = getattr(layer, direction)(torch.randn(7, 3, dtype=torch.float64))
    (y.tanh().square().sum() + ladj.sum()).backward()
    trained = {name: p.grad for name, p in layer.named_parameters() if name != "center"}
    assert all((grad != 0).all() for grad in trained.values())


def test_the_centre_of_actnorm_is_never_trained():
    layer = build(ActNorm, 3)
    y, ladj = layer.forward_and_ladj(torch.randn(7, 3, dtype=torch.float64))
    (y.sum() + ladj.sum()).backward()
    assert layer.center.grad is None


@pytest.mark.parametrize("kind", FROM_DATA)
def test_sign(kind):
    assert build(kind, 1).sign == 1
    with pytest.raises(NotImplementedError, match="no monotone map"):
        _ = build(kind, 2).sign


@pytest.mark.parametrize("kind", FROM_DATA)
def test_state_dict_restores_the_layer_and_that_it_was_initialized(kind):
    data = 5 + 3 * torch.randn(50, 3)
    layer = kind(3).eval()
    layer.initialize(data)
    other = kind(3).eval()
    other.load_state_dict(layer.state_dict())
    other.initialize(100 * data)
    for direction in DIRECTIONS:
        for actual, expected in zip(
            getattr(other, direction)(data), getattr(layer, direction)(data), strict=True
        ):
            assert torch.equal(actual, expected)


@pytest.mark.parametrize("batch", [(2,), (300,), (3, 40)])
@pytest.mark.parametrize("kind", FROM_DATA)
def test_initialize_standardizes_the_base_side(kind, batch):
    data = torch.tensor([1.0, -70.0, 0.0]) + torch.tensor([1.0, 9.0, 0.01]) * torch.randn(
        *batch, 3
    )
    # The default eps is a tenth of the last column's variance.
    layer = (BatchNorm(3, eps=1e-10) if kind is BatchNorm else kind(3)).eval()
    base = layer.initialize(data).reshape(-1, 3)
    assert torch.equal(base, layer.inverse_and_ladj(data)[0].reshape(-1, 3))
    assert not base.requires_grad
    torch.testing.assert_close(base.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(base.std(0), torch.ones(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [ActNorm, Standardize])
@pytest.mark.parametrize("offset", [1e4, -3e4])
def test_a_large_offset_costs_no_precision(kind, offset):
    data = offset + 1e-2 * torch.randn(4000, 2)  # float32: 10 to 20 distinct values in a sigma
    layer = kind(2)
    base = layer.initialize(data)
    torch.testing.assert_close(base.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(base.std(0), torch.ones(2), atol=1e-5, rtol=0)
    assert torch.equal(layer(base), data)


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW])
def test_actnorm_trains_at_a_large_offset(make):
    layer = ActNorm(1)
    layer.initialize(1e4 + 1e-2 * torch.randn(100, 1))
    optimizer = make(layer.parameters(), lr=1e-2)
    # Half a deviation higher. A float32 location of 1e4 would move by 0.1 of one at least.
    data = 1e4 + 1e-2 * (torch.randn(4000, 1) + 0.5)
    for _ in range(300):
        optimizer.zero_grad()
        x, ladj = layer.inverse_and_ladj(data)
        (x.square().sum(-1) / 2 - ladj).mean().backward()
        optimizer.step()
    assert layer.inverse_and_ladj(data)[0].mean().abs() < 0.01


@pytest.mark.parametrize("kind", FROM_DATA)
def test_a_constant_column_keeps_scale_one(kind):
    data = torch.randn(1000, 3)
    data[:, 1] = 0.1
    layer = kind(3).eval()
    base = layer.initialize(data)
    assert not base[:, 1].any()
    change = layer(base + torch.tensor([0.0, 1.0, 0.0])) - data
    torch.testing.assert_close(change[:, 1], torch.ones(1000), atol=1e-4, rtol=0)
    assert base.isfinite().all()


@pytest.mark.parametrize("kind", FROM_DATA)
def test_only_the_first_initialize_counts(kind):
    layer = kind(2).eval()
    layer.initialize(torch.randn(20, 2))
    before = copy.deepcopy(layer.state_dict())
    layer.initialize(7 * torch.randn(20, 2))
    assert all(torch.equal(layer.state_dict()[key], before[key]) for key in before)


@pytest.mark.parametrize("kind", FROM_DATA)
def test_initialize_is_seen_by_what_was_computed_before(kind):
    layer = kind(2).eval()
    data = 5 + torch.randn(20, 2)
    x = layer.inv(data)
    layer.initialize(data)
    _, expected = layer.forward_and_ladj(x)
    torch.testing.assert_close(layer.log_abs_det_jacobian(x, data), expected)


@pytest.mark.parametrize("kind", FROM_DATA)
def test_a_chain_initializes_its_parts_from_the_data_side(kind):
    data = 5 + 3 * torch.randn(200, 2)
    chain = Compose([kind(2), Permutation.reverse(2), kind(2)]).eval()
    base = chain.initialize(data)
    torch.testing.assert_close(base.std(0), torch.ones(2), atol=1e-4, rtol=0)
    assert all(not torch.equal(part(data), data) for part in (chain[0], chain[2]))


@pytest.mark.parametrize("kind", FROM_DATA)
def test_initialize_refuses_bad_data(kind):
    name = kind.__name__
    with pytest.raises(ValueError, match=f"{name}.initialize got data with 1 row. Pass at least"):
        kind(2).initialize(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="got data with 0 rows"):
        kind(2).initialize(torch.zeros(0, 2))
    with pytest.raises(ValueError, match="NaN or infinity in dimension 1"):
        kind(2).initialize(torch.tensor([[0.0, 1.0], [2.0, float("inf")]]))
    with pytest.raises(ValueError, match="got y with last dimension 3"):
        kind(2).initialize(torch.zeros(5, 3))


def test_uninitialized_layers_are_the_identity():
    x = torch.randn(4, 3)
    for kind in (ActNorm, Standardize):
        y, ladj = kind(3).forward_and_ladj(x)
        assert torch.equal(y, x)
        assert not ladj.any()


def test_standardize_takes_dtype_from_data_and_learns_nothing():
    layer = Standardize.from_data(torch.randn(10, 3, dtype=torch.float64))
    assert not list(layer.parameters())
    assert layer.initialized
    assert layer.log_scale.dtype == torch.float64
    whole = Standardize.from_data(torch.tensor([[1, 2], [3, 8]]))
    assert whole.shift.dtype == torch.get_default_dtype()
    with pytest.raises(ValueError, match="no dimensions"):
        Standardize.from_data(torch.tensor(1.0))


def test_batchnorm_agrees_with_torchs():
    ours, torchs = BatchNorm(3), nn.BatchNorm1d(3)
    for _ in range(4):
        data = 2 + 3 * torch.randn(10, 3)
        torch.testing.assert_close(ours.inverse_and_ladj(data)[0], torchs(data))
    torch.testing.assert_close(ours.running_mean, torchs.running_mean)
    torch.testing.assert_close(ours.running_var, torchs.running_var)
    torch.testing.assert_close(ours.eval().inverse_and_ladj(data)[0], torchs.eval()(data))


def test_batchnorm_in_training_counts_the_statistics_as_constants():
    layer = build(BatchNorm, 3).train()
    data = torch.randn(4, 5, 3, dtype=torch.float64)
    _, ladj = layer.inverse_and_ladj(data)
    variance = data.reshape(-1, 3).var(0, correction=0)
    expected = (layer.log_gamma - (variance + layer.eps).log() / 2).sum()
    torch.testing.assert_close(ladj, expected.expand(4, 5))


def test_batchnorm_moves_its_averages_only_when_scoring_data_in_training():
    layer = BatchNorm(2)
    data = 3 + torch.randn(10, 2)

    def moved(call):
        before = layer.running_mean.clone()
        call()
        return not torch.equal(before, layer.running_mean)

    assert moved(lambda: layer.inverse_and_ladj(data))
    assert not moved(lambda: layer.forward_and_ladj(data))
    assert not moved(lambda: layer.inverse_and_ladj(data[:1]))
    assert not moved(lambda: torch.no_grad()(layer.inverse_and_ladj)(data))
    layer.eval()
    assert not moved(lambda: layer.inverse_and_ladj(data))


def test_batchnorm_is_not_reused_while_its_directions_disagree():
    layer = BatchNorm(2)
    assert not layer.reusable
    x = torch.randn(5, 2)
    y = layer(x)
    assert layer.inv(y) is not x
    layer.eval()
    assert layer.reusable
    y = layer(x)
    assert layer.inv(y) is x


def test_batchnorm_scores_after_drawing_in_one_graph():
    layer = BatchNorm(2)
    y, ladj = layer.forward_and_ladj(torch.randn(5, 2))
    x, inverse_ladj = layer.inverse_and_ladj(y)
    (x.square().sum() + ladj.sum() + inverse_ladj.sum()).backward()
    assert layer.beta.grad.isfinite().all()


@pytest.mark.parametrize("options", [{"momentum": 1.5}, {"momentum": 0.0}, {"eps": -1.0}])
def test_batchnorm_refuses_bad_options(options):
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"BatchNorm got {name}={value}"):
        BatchNorm(2, **options)


def test_batchnorm_under_vmap_in_training_says_it_cannot():
    with pytest.raises((RuntimeError, ValueError), match="vmap"):
        torch.vmap(BatchNorm(2).inverse_and_ladj)(torch.randn(3, 5, 2))
