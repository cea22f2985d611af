"""Graphs of continuous layers: second derivatives, what is kept, copied, changed and freed."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from own_fields import KINDS, TIGHT, Encoded, layer_of, mlp, points
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from pyro_nf.transforms._continuous import choice
from pyro_nf.transforms._continuous.watch import Watch

torch.set_num_threads(1)

BOTH = pytest.mark.parametrize("direction", ["forward", "inverse"])
GRAPHLESS = pytest.mark.parametrize("gradient", ["adjoint", "checkpoint"])
GRADIENTS = pytest.mark.parametrize("gradient", ["backprop", "adjoint", "checkpoint"])


# ---------------------------------------------------------------------------- second derivatives


@pytest.mark.parametrize("kind", ["closed", "exact", "potential", "module"])
@BOTH
def test_hessians_by_backpropagation(kind: str, direction: str) -> None:
    make, options = KINDS[kind]
    layer = layer_of(make(), scale=0.5, gradient="backprop", **options, **TIGHT)
    context = points(1, 2, seed=1)

    def value(x: Tensor) -> Tensor:
        z, ladj = getattr(layer, f"{direction}_and_ladj")(x, context)
        return z.sin().sum() + ladj.sum()

    def slope(x: Tensor) -> Tensor:
        return torch.autograd.functional.jacobian(value, x).flatten()

    x = points(1, 2)
    got = torch.autograd.functional.hessian(value, x).reshape(2, 2)
    steps = 1e-4 * torch.eye(2).double()
    want = torch.stack([(slope(x + step) - slope(x - step)) / 2e-4 for step in steps])
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got, got.t(), rtol=1e-6, atol=1e-7)


@GRAPHLESS
@pytest.mark.parametrize("kind", ["closed", "module"])
def test_second_derivatives_of_the_others_are_refused(kind: str, gradient: str) -> None:
    module, features = Encoded(kind, gradient=gradient), points(3, 3)
    x, weight = points(3, 2).requires_grad_(), module.encoder.weight

    def value(v: Tensor) -> Tensor:
        return module("inverse", v, features)

    def penalty() -> Tensor:
        (slope,) = torch.autograd.grad(value(x), x, create_graph=True)
        return slope.square().sum() + x.sum() + weight.sum()

    loss = penalty()
    loss.detach()  # a gradient with a graph that nobody differentiates is one like any other
    torch.testing.assert_close(
        torch.autograd.grad(value(x), x, create_graph=True), torch.autograd.grad(value(x), x)
    )
    twice = [
        loss.backward,
        lambda: torch.autograd.grad(penalty(), x),
        lambda: torch.autograd.grad(penalty(), [x, weight], allow_unused=True),
        lambda: torch.autograd.grad(penalty(), weight, materialize_grads=True),
        lambda: torch.autograd.functional.hessian(value, x.detach()),
        lambda: torch.autograd.functional.hvp(value, x.detach(), points(3, 2)),
    ]
    for attempt in twice:
        with pytest.raises(RuntimeError, match='gradient="backprop"'):
            attempt()


@GRAPHLESS
def test_batches_of_gradients_are_refused(gradient: str) -> None:
    x = points(2, 2)
    jacobian = torch.autograd.functional.jacobian
    with pytest.raises(RuntimeError, match="batch of gradients.*vectorize=False"):
        jacobian(layer_of(mlp(), gradient=gradient), x, vectorize=True)
    plain = layer_of(mlp(), gradient="backprop")
    torch.testing.assert_close(jacobian(plain, x, vectorize=True), jacobian(plain, x))


# ------------------------------------------------------------------------------- graphs and memory


@GRADIENTS
def test_a_graph_kept_serves_twice_and_one_freed_once(gradient: str) -> None:
    layer = layer_of(mlp(), gradient=gradient)
    ladj = layer.forward_and_ladj(points(3, 2))[1].sum()
    once = torch.autograd.grad(ladj, layer.parameters(), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(ladj, layer.parameters()), once)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(ladj, layer.parameters())


@GRADIENTS
@pytest.mark.parametrize("kind", ["closed", "module"])
def test_a_weight_changed_before_the_gradient_is_noticed(kind: str, gradient: str) -> None:
    module = Encoded(kind, gradient=gradient)
    value = module("inverse", points(3, 2), points(3, 3))
    with torch.no_grad():
        next(module.layer.field.parameters()).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@GRADIENTS
def test_copies_and_pickles_while_a_gradient_is_pending(gradient: str) -> None:
    layer, x = layer_of(mlp(), gradient=gradient), points(3, 2)
    y = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), y)
        twin(x).sum().backward()
        assert layer.field.output.weight.grad is None
    y.sum().backward()
    assert layer.field.output.weight.grad.abs().sum() > 0


@GRADIENTS
def test_a_solve_is_freed_with_its_result(gradient: str) -> None:
    layer = layer_of(mlp(), gradient=gradient)
    seen: list[weakref.ref] = []
    plain = Watch.__init__

    def noted(watch: Watch, *args: object) -> None:
        seen.append(weakref.ref(watch))
        plain(watch, *args)

    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Watch, "__init__", noted)
            y, ladj = layer.forward_and_ladj(points(3, 2))
            (y.sum() + ladj.sum()).backward()
            del y, ladj
        assert len(seen) == 1
        assert seen[0]() is None
    finally:
        gc.enable()


def test_the_adjoints_memory_is_flat_in_the_steps() -> None:
    def kept(gradient: str, steps: int) -> int:
        layer, total = layer_of(mlp(), solver="rk4", steps=steps, gradient=gradient), []

        def note(tensor: Tensor) -> Tensor:
            total.append(tensor.nbytes)
            return tensor

        with saved_tensors_hooks(note, lambda tensor: tensor):
            layer.forward_and_ladj(points(50, 2))
        return sum(total)

    assert kept("adjoint", 40) == kept("adjoint", 10)
    assert kept("checkpoint", 40) == kept("checkpoint", 10)  # beside one state for each step
    assert kept("backprop", 40) > 3 * kept("backprop", 10) > 10 * kept("adjoint", 10)


@GRAPHLESS
def test_autocast_around_the_gradient_changes_nothing(gradient: str) -> None:
    gradients = []
    for enabled in (False, True):
        layer = layer_of(mlp(), gradient=gradient).float()
        value = layer.forward_and_ladj(points(3, 2).float())[1].sum()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            gradients.append(torch.autograd.grad(value, layer.parameters()))
    assert all(map(torch.equal, *gradients))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # which the compiler looks at itself
@GRADIENTS
def test_a_compiled_caller_leaves_the_solve_alone(gradient: str) -> None:
    layer, x = layer_of(mlp(), gradient=gradient), points(3, 2)

    def value(v: Tensor) -> Tensor:
        return 2 * layer.forward_and_ladj(v)[1].sum()

    compiled = torch.compile(value, backend="eager")
    got = torch.autograd.grad(compiled(x), layer.parameters())
    torch.testing.assert_close(got, torch.autograd.grad(value(x), layer.parameters()))


@pytest.mark.parametrize(("solver", "without"), [("dopri5", "checkpoint"), ("dopri8", "adjoint")])
def test_auto_measures_the_graph_it_would_keep(solver: str, without: str, monkeypatch) -> None:
    x = points(100, 4)
    layer = layer_of(mlp(4, (16, 16)), solver="rk4", steps=10)
    storages: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        return storages.setdefault(tensor.untyped_storage().data_ptr(), tensor)

    with saved_tensors_hooks(note, lambda tensor: tensor):
        layer.forward_and_ladj(x)
    kept = sum(tensor.untyped_storage().nbytes() for tensor in storages.values())
    (foreseen,) = (40 * each for each in layer._graph_bytes.values())
    assert kept <= foreseen <= 1.3 * kept

    for bytes_allowed, gradient in ((choice.BACKPROP_BYTES, "backprop"), (1, without)):
        monkeypatch.setattr(choice, "BACKPROP_BYTES", bytes_allowed)
        layer = layer_of(layer.field, solver=solver)
        layer.forward_and_ladj(x)[1].sum().backward()
        forward, backward = layer.evaluations.forward, layer.evaluations.backward
        assert (backward > 0) == (gradient != "backprop")
        if gradient == "checkpoint":  # what was rejected is not replayed
            assert backward % 6 == 0
            assert backward <= forward - 2
