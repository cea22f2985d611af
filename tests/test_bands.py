"""Products that leave out what a mask cuts, against dense ones."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.autograd import grad
from torch.utils.weak import WeakIdKeyDictionary

from pyro_nf.nn import MaskedMLP, _bands

CHAIN = [[j == i - 1 for j in range(6)] for i in range(6)]
NETWORKS = {
    "natural order": {},
    "reversed": {"order": [5, 4, 3, 2, 1, 0]},
    "any order": {"order": [3, 0, 5, 1, 4, 2]},
    "a chain's graph": {"adjacency": CHAIN},
    "with a context": {"context_dim": 2},
}
each_network = pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)


@pytest.fixture
def used(monkeypatch):
    """Lets small bands count, and counts the products made in them."""
    monkeypatch.setattr(_bands, "_known", WeakIdKeyDictionary())
    monkeypatch.setattr(_bands, "_LEAST_ROWS", 4)
    monkeypatch.setattr(_bands, "_LEAST_MULTIPLICATIONS", 1)
    found, real = [], _bands._find
    monkeypatch.setattr(_bands, "_find", lambda mask: found.append(real(mask)) or found[-1])
    return found


def network_of(options):
    network = MaskedMLP(6, 2, (16, 20), **options).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    return network


def outcome(network, x, context):
    output = network(x, context)
    wanted = [x, *network.parameters(), *([] if context is None else [context])]
    return output, grad(output, wanted, torch.ones_like(output).cumsum(1))


@each_network
def test_same_numbers_and_gradients(used, options):
    network = network_of(options)
    x = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    context = None
    if network.context_dim:
        context = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    banded = outcome(network, x, context)
    assert any(bands is not None for bands in used)
    handle = network.register_forward_hook(lambda *_: None)
    network.activations[0].register_forward_hook(lambda *_: None)  # onlookers: layer by layer
    torch.testing.assert_close(banded, outcome(network, x, context), rtol=1e-12, atol=1e-12)
    handle.remove()


def test_a_mask_in_anothers_place_is_read_anew(used):
    network = network_of({})
    x = torch.randn(6, 9, dtype=torch.float64)
    network(x)
    seen = len(used)
    network(x)
    assert len(used) == seen
    other = network_of({"adjacency": CHAIN})
    for mine, theirs in zip(network.hidden, other.hidden, strict=True):
        mine.mask.copy_(theirs.mask)  # in place
        mine.load_state_dict(theirs.state_dict())
    network.output.load_state_dict(other.output.state_dict())
    torch.testing.assert_close(network(x), other(x))
    assert len(used) > seen


def test_copies_and_dtypes(used):
    network = network_of({})
    x = torch.randn(6, 9, dtype=torch.float64)
    expected = network(x)
    torch.testing.assert_close(copy.deepcopy(network)(x), expected)
    single = copy.deepcopy(network).float()(x.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-3, atol=1e-3)


def test_bands_cover_every_entry_of_the_mask():
    for options in NETWORKS.values():
        for linear in MaskedMLP(40, 2, (256, 300), order=None, **_wide(options)).hidden:
            bands = _bands._find(linear.mask)
            if bands is None:
                continue
            outside = linear.mask.clone()
            for rows, columns in bands:
                outside[rows, columns] = 0
            assert not outside.any()
            assert sum(map(_bands._area, bands)) < 0.9 * linear.mask.numel()


def _wide(options):
    if "adjacency" in options:
        return {"adjacency": [[j == i - 1 for j in range(40)] for i in range(40)]}
    return {key: value for key, value in options.items() if key == "context_dim"}


def test_small_products_stay_dense():
    mask = torch.ones(256, 256).tril()
    assert _bands.bands_of(mask, 16) is None
    assert len(_bands.bands_of(mask, 1024)) == 4
    assert _bands.bands_of(None, 1024) is None
    assert _bands.bands_of(mask.to("meta"), 1024) is None
    assert _bands.bands_of(torch.ones(256, 256), 1024) is None
