"""Layers as modules: copies, pickles, checkpoints, the inverse, dtypes."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from pathlib import Path

import pyro
import pytest
import torch
from cases import CASES, VECTOR_FLOWS, Case, build, inputs, perturb
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pyro_nf import flows
from pyro_nf.transforms import Inverse

EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@EVERY
def test_state_dict_restores_a_layer_built_under_another_seed(case: Case) -> None:
    layer = build(case, scale=0.5)
    x, context = inputs(case)
    want = layer.forward_and_ladj(x, context)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    torch.manual_seed(99)
    other = case.build().double()
    perturb(other, 1.0, seed=77)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for got, expected in zip(other.forward_and_ladj(x, context), want, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@EVERY
def test_building_draws_no_architecture_from_the_global_generator(case: Case) -> None:
    torch.manual_seed(0)
    buffers = dict(case.build().named_buffers())
    torch.manual_seed(123)
    for name, buffer in case.build().named_buffers():
        assert torch.equal(buffer, buffers[name]), name


@EVERY
def test_no_tensor_stands_twice_in_the_state(case: Case) -> None:
    layer = build(case)
    pointers = [t.data_ptr() for t in layer.state_dict(keep_vars=True).values() if t.numel()]
    assert len(pointers) == len(set(pointers))


@EVERY
def test_copies_and_pickles_after_use(case: Case) -> None:
    layer = build(case, scale=0.5)
    x, context = inputs(case)
    bound = layer.condition(context)
    y = bound(x)
    bound.inv(y)
    layer.inv  # noqa: B018  (the inverse exists when the layer is copied)
    want = layer.forward_and_ladj(x, context)[0]
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=False)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), saved):
        torch.testing.assert_close(other.forward_and_ladj(x, context)[0], want)
        assert other.inv.inv is other
        assert not set(map(id, other.parameters())) & set(map(id, layer.parameters()))
    pickle.loads(pickle.dumps(bound))
    copy.deepcopy(bound.inv)


@EVERY
def test_moving_averages_of_a_used_layer(case: Case) -> None:
    layer = build(case, scale=0.5)
    x, context = inputs(case)
    layer.condition(context)(x)
    average = AveragedModel(layer)
    average.update_parameters(layer)
    got = average.module.forward_and_ladj(x, context)[0]
    torch.testing.assert_close(got, layer.forward_and_ladj(x, context)[0])


@EVERY
def test_the_inverse_is_a_module_with_the_layers_parameters(case: Case) -> None:
    layer = build(case, scale=0.5)
    inverse = layer.inv
    assert inverse.inv is layer
    assert layer.inv is inverse
    assert list(inverse.parameters()) == list(layer.parameters())
    assert list(nn.ModuleList([inverse]).parameters()) == list(layer.parameters())
    if not isinstance(layer, Inverse):
        assert set(inverse.state_dict()) == {f"layer.{name}" for name in layer.state_dict()}
    twin = copy.deepcopy(inverse)
    assert twin.inv.inv is twin
    x, context = inputs(case)
    y, ladj = layer.forward_and_ladj(x, context)
    for got, want in zip(inverse.inverse_and_ladj(x, context), (y, ladj), strict=True):
        torch.testing.assert_close(got, want)
    bound = layer.condition(context)
    assert bound.inv.inv is bound
    torch.testing.assert_close(bound.inv(bound(x)), x, **case.slack)
    torch.testing.assert_close(
        bound.inv.log_abs_det_jacobian(y, x),
        -bound.log_abs_det_jacobian(x, y),
        **case.slack,
    )


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_dtype_follows_input_and_parameters(case: Case, dtype: torch.dtype) -> None:
    layer = build(case, scale=0.3, dtype=dtype)
    x, context = inputs(case, dtype=dtype)
    if dtype == torch.bfloat16 and not case.bfloat16:
        with pytest.raises(TypeError, match="bfloat16"):
            layer.forward_and_ladj(x, context)
        return
    y, ladj = layer.forward_and_ladj(x, context)
    back, back_ladj = layer.inverse_and_ladj(y, context)
    assert {t.dtype for t in (y, ladj, back, back_ladj)} == {dtype}
    assert all(t.isfinite().all() for t in (y, ladj, back, back_ladj))
    exact = build(case, scale=0.3)
    for parameter, rounded in zip(exact.parameters(), layer.parameters(), strict=True):
        parameter.data.copy_(rounded.data)
    want = exact.forward_and_ladj(x.double(), None if context is None else context.double())
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-12, torch.bfloat16: 0.1}[dtype]
    for got, expected in zip((y, ladj), want, strict=True):
        error = max(tolerance, case.solver_error)
        torch.testing.assert_close(got.double(), expected, rtol=error, atol=error)


@pytest.mark.parametrize(
    "name", ["nice", "realnvp", "maf", "iaf", "nsf", "naf", "umnn", "flow_plus_plus"]
)
def test_activations_are_not_shared(name: str) -> None:
    flow = getattr(flows, name)(3, activation=nn.PReLU())
    modules = [m for m in flow.modules() if isinstance(m, nn.PReLU)]
    assert len(modules) > 2
    assert len({id(m) for m in modules}) == len(modules)


@pytest.mark.parametrize("name", sorted(set(VECTOR_FLOWS) - {"circular_nsf"}))
def test_pyros_parameter_store_restores_a_fitted_flow(name: str, tmp_path: Path) -> None:
    """The store keeps parameters and drops buffers: nothing that data decide may be a buffer."""
    make = getattr(flows, name)
    x = 100 + 3 * torch.randn(200, 2)
    flow = make(2)
    flow.initialize(x)
    pyro.module("flow", flow)
    pyro.get_param_store().save(str(tmp_path / "store"))
    pyro.clear_param_store()
    torch.manual_seed(123)
    other = make(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pyro loads its store without weights_only
        pyro.get_param_store().load(str(tmp_path / "store"))
    pyro.module("flow", other, update_module_params=True)
    other.initialize(7 * x)  # restored layers keep their values
    torch.testing.assert_close(other().log_prob(x), flow().log_prob(x))


def test_a_shallow_copy_has_an_inverse_of_its_own() -> None:
    layer = flows.maf(2).transform
    layer.inv  # noqa: B018  (the inverse exists when the layer is copied)
    twin = copy.copy(layer)
    assert twin.inv.inv is twin
    assert layer.inv.inv is layer
    view = flows.maf(2, context_dim=1).transform.condition(torch.zeros(1))
    twin_view = copy.deepcopy(view.inv)
    assert twin_view.inv.inv is twin_view
