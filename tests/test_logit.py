"""The logit layer beyond the registry: its ends, and bad input."""

from __future__ import annotations

import pytest
import torch

from pyro_nf.transforms import Logit


def test_logit_layer_refuses() -> None:
    with pytest.raises(ValueError, match=r"alpha=0.5. Pass a number in \[0, 0.5\)"):
        Logit(0.5)
    with pytest.raises(ValueError, match=r"Logit\(event_dim=3\) got y of shape \(5, 4\)"):
        Logit().inverse_and_ladj(torch.zeros(5, 4))


def test_logit_is_stable_at_the_ends_in_float32() -> None:
    layer = Logit(alpha=1e-6)
    y = torch.tensor([0.0, 1e-7, 1e-3, 0.5, 1 - 1e-3, 1.0]).reshape(-1, 1, 1, 1)
    for got, want in zip(
        layer.inverse_and_ladj(y), layer.inverse_and_ladj(y.double()), strict=True
    ):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    p = 1e-6 + (1 - 2e-6) * y.double().flatten()
    torch.testing.assert_close(layer.inverse_and_ladj(y.double())[0].flatten(), torch.logit(p))
