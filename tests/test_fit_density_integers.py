"""Fits of flows of integers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import constraints
from torch.utils.data import DataLoader, TensorDataset

from pyro_nf.bijections import Affine, RationalQuadraticSpline
from pyro_nf.distributions import Dequantized, DiagonalNormal, Flow
from pyro_nf.infer import fit_density
from pyro_nf.infer._inputs import Expected
from pyro_nf.transforms import ActNorm, Coupling

torch.set_num_threads(1)

UNIT = constraints.unit_interval


def two_columns(rows: int = 4000) -> torch.Tensor:
    """Correlated integers 0..7 in two columns, of 8 bits."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(rows, generator=generator)
    second = 0.8 * first + 0.6 * torch.randn(rows, generator=generator)
    return (1.5 * torch.stack([first, second], -1) + 4).floor().clamp(0, 7).to(torch.uint8)


def spline_flow(context_dim: int = 0) -> Flow:
    spline = RationalQuadraticSpline(bins=8)
    layers = [
        Coupling(spline, 2, mask=[bool(i), not i], context_dim=context_dim, hidden_dims=(32,))
        for i in (0, 1, 0)
    ]
    return Flow(DiagonalNormal(2), [*layers, ActNorm(2)], support=UNIT)


def test_fit_finds_the_entropy_of_the_histogram() -> None:
    torch.manual_seed(0)
    x = two_columns()
    cells = torch.bincount(x[:, 0].long() * 8 + x[:, 1], minlength=64) / len(x)
    entropy = -(cells * cells.clamp_min(1e-12).log()).sum().item()
    noise = Flow(
        DiagonalNormal(2, context_dim=2),
        Coupling(Affine(), 2, context_dim=2, hidden_dims=(16,)),
        support=UNIT,
    )
    for module in (
        Dequantized(spline_flow(), 8),
        Dequantized(spline_flow(), 8, dequantizer=noise, draws=2),
    ):
        result = fit_density(module, x, max_steps=400, batch_size=256, learning_rate=1e-2)
        bound = -module().estimate_log_prob(x, 30).mean().item()
        assert abs(bound - entropy) < 0.1
        assert result.best_loss > bound - 0.1
        bits = module.bits_per_dim(x, draws=30).mean().item()
        assert bits == pytest.approx(bound / (2 * math.log(2)), abs=0.01)


def test_held_out_noise_is_the_same_at_each_measurement() -> None:
    module, x = Dequantized(spline_flow(), 8), two_columns(500)
    state = torch.get_rng_state()
    options = {"max_steps": 4, "validate_every": 2, "learning_rate": 1e-30}
    result = fit_density(module, x, schedule="constant", **options)
    losses = [loss for _, loss in result.validation_losses]
    assert losses == [losses[0]] * 3
    assert len(set(result.train_losses)) == 4
    assert not torch.equal(torch.get_rng_state(), state)  # training's noise is the caller's


@pytest.mark.parametrize("given", ["tensor", "array", "loader"])
def test_fit_resumes_to_the_bit(given: str, tmp_path) -> None:
    x, context = two_columns(400), torch.randn(400, 1)

    def fit(**more):
        torch.manual_seed(0)
        module = Dequantized(spline_flow(1), 8, draws=2)
        if given == "loader":
            loader = DataLoader(TensorDataset(x, context), batch_size=50, shuffle=True)
            result = fit_density(module, loader, max_steps=12, validate_every=5, **more)
        else:
            data = x.numpy() if given == "array" else x
            sizes = {"batch_size": 50, "max_steps": 12, "validate_every": 5}
            result = fit_density(module, data, context=context, **sizes, **more)
        return module, result

    whole, expected = fit()

    def stop(step, losses):
        if step == 7:
            raise KeyboardInterrupt

    path = tmp_path / "fit.pt"
    fit(checkpoint=path, callback=stop)
    resumed, result = fit(checkpoint=path, resume=True)
    assert result.train_losses == expected.train_losses
    assert result.validation_losses == expected.validation_losses
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True)
    )


WIDER = {"uint16": torch.int32, "uint32": torch.int64, "uint64": torch.int64}


@pytest.mark.parametrize(
    "name", ["uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"]
)
def test_fit_keeps_integers_in_their_dtype(name: str) -> None:
    x, dtype = two_columns(100), getattr(torch, name)
    swapped = np.dtype(name).newbyteorder("S")
    for data in (x.to(dtype), x.numpy().astype(name), x.numpy().astype(swapped)):
        rows = Expected.by(Dequantized(spline_flow(), 8)).pair(data, None)[0]
        assert rows.dtype == WIDER.get(name, dtype)
        assert torch.equal(rows, x.to(rows.dtype))


def test_fit_takes_arrays_of_16_bits() -> None:
    for name in ("int16", "uint16"):
        result = fit_density(
            Dequantized(spline_flow(), 8), two_columns(100).numpy().astype(name), max_steps=3
        )
        assert result.steps == 3


@pytest.mark.parametrize("dtype", [np.float32, bool])
def test_fit_names_the_way_of_arrays_to_integers(dtype: type) -> None:
    message = r"dtype torch\.(float32|bool).*data\.astype\(int\), if the values are these"
    with pytest.raises(TypeError, match=message):
        fit_density(Dequantized(spline_flow(), 8), two_columns(9).numpy().astype(dtype))


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (torch.rand(9, 2), TypeError, r"fit_density got data of dtype torch.float32.*0\.\.7"),
        (
            torch.full((9, 2), 8),
            ValueError,
            r"data with 8 at \[0, 0\] \(18 such values\).*levels=9",
        ),
        (torch.zeros(9, 3, dtype=torch.int64), ValueError, r"shape \(9, 3\); the flow expects"),
        (torch.zeros(0, 2, dtype=torch.int64), ValueError, "without rows"),
    ],
)
def test_fit_refuses(data, kind, message: str) -> None:
    with pytest.raises(kind, match=message):
        fit_density(Dequantized(spline_flow(), 8), data, max_steps=1)
    with pytest.raises(kind, match=message.replace("data", "validation")):
        fit_density(Dequantized(spline_flow(), 8), two_columns(9), validation=data, max_steps=1)


def test_plain_flows_name_the_way_to_integers() -> None:
    with pytest.raises(ValueError, match=r"dtype uint8.*Dequantized\(flow, levels\)"):
        fit_density(spline_flow(), two_columns(9), max_steps=1)
