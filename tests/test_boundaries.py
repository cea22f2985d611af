"""What layers and flows refuse at their entrance: dtypes, contexts, what is no layer."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_nf import bijections as B
from pyro_nf import flows
from pyro_nf import transforms as T
from pyro_nf.distributions import DiagonalNormal, Flow

torch.set_num_threads(1)

LAYERS = {
    "elementwise": lambda: T.Elementwise(B.Affine(), 4),
    "coupling": lambda: T.Coupling(B.Affine(), 4),
    "autoregressive": lambda: T.Autoregressive(B.Affine(), 4, fast="sample"),
    "pyro": lambda: T.affine_coupling(4),
    "lu": lambda: T.LULinear(4),
    "actnorm": lambda: T.ActNorm(4),
    "joint": lambda: T.Joint(B.Rotation(), 4),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("double", ["layer", "values"])
def test_layers_refuse_another_dtype(name, double):
    layer, x = LAYERS[name](), torch.zeros(5, 4)
    layer, x = (layer.double(), x) if double == "layer" else (layer, x.double())
    with pytest.raises(TypeError, match=rf"{type(layer).__name__} has .*Convert .*layer.to"):
        layer(x)
    with pytest.raises(TypeError, match="got y of dtype"):
        layer.inv(x)


def test_layers_refuse_contexts_of_another_dtype():
    layer = T.Elementwise(B.Affine(), 4, context_dim=2)
    with pytest.raises(TypeError, match=r"got context of dtype torch.float64.*context.to"):
        layer.forward_and_ladj(torch.zeros(5, 4), torch.zeros(2).double())


def test_layers_without_parameters_take_any_dtype():
    assert T.Permutation([1, 0])(torch.zeros(5, 2).double()).dtype == torch.float64


def test_autocast_brings_half_precision_to_layers():
    layer, x = T.Coupling(B.Affine(), 4), torch.zeros(5, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_contexts_that_are_not_finite_are_named(bad: float) -> None:
    context = torch.tensor([[0.0, 1.0], [bad, 1.0]])
    in_base = Flow(DiagonalNormal(3, context_dim=2), T.ActNorm(3))
    for flow in (flows.maf(3, context_dim=2), in_base):
        with pytest.raises(ValueError, match=rf"context \[{bad}, 1\] at \[1\].*not finite"):
            flow(context)


def test_a_context_in_the_call_is_pointed_to_condition():
    layer = T.Elementwise(B.Affine(), 3, context_dim=2)
    for called in (layer, layer.inv, layer.condition(torch.zeros(2)).inv):
        with pytest.raises(TypeError, match=r"layer.condition\(context\)\(x\)"):
            called(torch.zeros(3), torch.zeros(2))


def test_inverse_of_no_layer_is_refused():
    with pytest.raises(TypeError, match="layer of type int"):
        T.Inverse(3)
