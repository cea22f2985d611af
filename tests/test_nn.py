"""The dense networks: shapes, contexts, zero patterns, checkpoints, sampled weights."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroSample
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn

from pyro_nf.nn import MLP, MaskedMLP
from pyro_nf.nn._linear import Linear

torch.set_num_threads(1)

BATCHES = [(), (1,), (0,), (5,), (2, 5)]


def perturbed(network: nn.Module, seed: int = 0) -> nn.Module:
    """Draws every parameter from N(0, 0.5²), in float64."""
    generator = torch.Generator().manual_seed(seed)
    network.double()
    for parameter in network.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator).double()
    return network


def build(kind: str, context_dim: int = 0, **options: object) -> nn.Module:
    if kind == "mlp":
        return MLP(3, 6, (8, 8), context_dim=context_dim, **options)
    return MaskedMLP(3, 2, (8, 8), context_dim=context_dim, **options)


@pytest.mark.parametrize("kind", ["mlp", "masked"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("context_dim", [0, 2])
def test_fresh_output_is_exactly_zero(kind: str, batch: tuple[int, ...], context_dim: int) -> None:
    network = build(kind, context_dim)
    context = torch.randn(*batch[-1:], context_dim) if context_dim else None
    out = network(torch.randn(3, *batch), context)
    assert out.shape == (6, *batch)
    assert out.is_contiguous()
    assert torch.equal(out, torch.zeros_like(out))


@pytest.mark.parametrize("hidden_dims", [(), (1,), (7,), (8, 8, 8)])
@pytest.mark.parametrize("residual", ["none", "skip"])
@pytest.mark.parametrize("context_dim", [0, 2])
def test_mlp_formula(hidden_dims: Sequence[int], residual: str, context_dim: int) -> None:
    options = {"context_dim": context_dim, "activation": "tanh", "residual": residual}
    network = MLP(3, 4, hidden_dims, **options)
    perturbed(network)
    x = torch.randn(3, 10).double()
    context = torch.randn(10, context_dim).double() if context_dim else None

    def affine(linear: Linear, h: Tensor) -> Tensor:
        out = linear.weight @ h + linear.bias[:, None]
        return out if linear.context_dim == 0 else out + linear.context_weight @ context.t()

    h = x
    for i, linear in enumerate(network.hidden):
        change = torch.tanh(affine(linear, h))
        h = h + change if residual == "skip" and i > 0 else change
    torch.testing.assert_close(network(x, context), affine(network.output, h))


@pytest.mark.parametrize("kind", ["mlp", "masked"])
@pytest.mark.parametrize("hidden_dims", [(), (8, 8)])
def test_context_broadcasts_aligned_right(kind: str, hidden_dims: Sequence[int]) -> None:
    network = MLP(3, 6, hidden_dims, context_dim=2)
    if kind == "masked":
        network = MaskedMLP(3, 2, hidden_dims, context_dim=2)
    perturbed(network)
    x = torch.randn(3, 4, 5).double()
    for context_batch in [(), (1,), (5,), (1, 5), (4, 1), (4, 5)]:
        context = torch.randn(*context_batch, 2).double()
        full = network(x, context.expand(4, 5, 2))
        torch.testing.assert_close(network(x, context), full)


@pytest.mark.parametrize("kind", ["mlp", "masked"])
def test_context_is_evaluated_once_per_row(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    shift = Linear.shift

    def counting(self: Linear, context: Tensor | None) -> Tensor:
        result = shift(self, context)
        rows.append(result.numel() // self.output_dim)
        return result

    monkeypatch.setattr(Linear, "shift", counting)
    build(kind, context_dim=2)(torch.randn(3, 11, 5), torch.randn(5, 2))
    assert rows == [5, 5, 1]


def test_mlp_without_inputs_is_a_function_of_the_context() -> None:
    network = perturbed(MLP(0, 4, (8,), context_dim=2))
    context = torch.randn(5, 2).double()
    out = network(torch.zeros(0, 5).double(), context)
    assert out.shape == (4, 5)
    assert out.std(1).min() > 0


# ---------------------------------------------------------------------------------------- MADE


def jacobian_pattern(network: MaskedMLP, context: Tensor | None) -> Tensor:
    dim, params = network.input_dim, network.params_per_input
    pattern = torch.zeros(dim, dim, dtype=torch.bool)
    for _ in range(8):
        x = torch.randn(dim).double()
        jacobian = torch.autograd.functional.jacobian(lambda x: network(x, context), x)
        pattern |= (jacobian.view(params, dim, dim) != 0).any(0)
    return pattern


@pytest.mark.parametrize("hidden_dims", [(), (1,), (2, 3), (40,), (40, 40), (60, 30, 45)])
@pytest.mark.parametrize("residual", ["none", "skip"])
@pytest.mark.parametrize("context_dim", [0, 2])
def test_zero_pattern(hidden_dims: Sequence[int], residual: str, context_dim: int) -> None:
    generator = torch.Generator().manual_seed(len(hidden_dims))
    order = torch.randperm(6, generator=generator)
    network = MaskedMLP(
        6,
        3,
        hidden_dims,
        order=order,
        context_dim=context_dim,
        activation="tanh",
        residual=residual,
    )
    perturbed(network)
    context = torch.randn(context_dim).double() if context_dim else None
    position = order.argsort()
    allowed = position[:, None] > position
    pattern = jacobian_pattern(network, context)
    assert torch.equal(pattern, network.depends_on())
    assert not (pattern & ~allowed).any()
    if not hidden_dims or min(hidden_dims) >= 6:
        assert torch.equal(pattern, allowed)


@pytest.mark.parametrize("context_dim", [0, 2])
def test_one_input_sees_nothing_but_the_context(context_dim: int) -> None:
    network = perturbed(MaskedMLP(1, 2, (4, 4), context_dim=context_dim))
    context = torch.randn(7, 2).double() if context_dim else None
    out = network(torch.randn(1, 7).double(), context)
    if context_dim:
        assert out.std(1).min() > 0
    else:
        torch.testing.assert_close(out, out[:, :1].expand_as(out))


def test_counts_are_prefixes_and_independent_of_the_order() -> None:
    network = MaskedMLP(5, 2, (9, 3), order=[4, 2, 0, 1, 3])
    assert network.counts == MaskedMLP(5, 2, (9, 3)).counts
    assert network.counts[0] == (0, 3, 5, 7, 9)
    assert network.counts[1] == (0, 1, 2, 2, 3)
    with_context = MaskedMLP(5, 2, (10, 3), context_dim=1)
    assert with_context.counts == ((2, 4, 6, 8, 10), (1, 1, 2, 2, 3))


def test_checkpoint_restores_the_order() -> None:
    saved = perturbed(MaskedMLP(4, 2, (9, 9), order=[3, 1, 0, 2]))
    loaded = MaskedMLP(4, 2, (9, 9)).double()
    loaded.load_state_dict(saved.state_dict())
    x = torch.randn(4, 6).double()
    assert torch.equal(loaded(x), saved(x))
    assert torch.equal(loaded.depends_on(), saved.depends_on())
    assert loaded.order.tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [1, 2, 3], [0.0, 1.0, 2.0]])
def test_bad_order_is_refused(order: list[int]) -> None:
    with pytest.raises(ValueError, match=r"input_dim=3.*no permutation"):
        MaskedMLP(3, 2, order=order)


# ------------------------------------------------------------------------- what both must do


@pytest.mark.parametrize("kind", ["mlp", "masked"])
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    network = perturbed(build(kind, context_dim=2, activation="tanh"))
    out = network(torch.randn(3, 16).double(), torch.randn(16, 2).double())
    out.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", ["mlp", "masked"])
@pytest.mark.parametrize(
    "activation",
    ["relu", "tanh", "elu", "silu", "gelu", "softplus", "leaky_relu", "sigmoid", torch.sin],
)
def test_activations(kind: str, activation: object) -> None:
    network = perturbed(build(kind, activation=activation))
    assert network(torch.randn(3, 4).double()).isfinite().all()


def test_activation_modules_are_copied() -> None:
    prelu = nn.PReLU()
    network = MLP(3, 4, activation=prelu)
    assert network.activations[0] is not prelu
    assert network.activations[0] is not network.activations[1]
    assert len(list(network.parameters())) == 8
    with pytest.raises(TypeError, match="nn.Module instance"):
        MLP(3, 4, activation=nn.ReLU)
    with pytest.raises(ValueError, match="activation='rleu'"):
        MLP(3, 4, activation="rleu")


@pytest.mark.parametrize("kind", ["mlp", "masked"])
def test_bad_inputs_are_refused(kind: str) -> None:
    x = torch.randn(3, 5)
    with pytest.raises(ValueError, match=r"got x of shape \(5, 3\)"):
        build(kind)(x.t())
    with pytest.raises(ValueError, match="got no context"):
        build(kind, context_dim=2)(x)
    with pytest.raises(ValueError, match="without a context"):
        build(kind)(x, torch.randn(5, 2))
    with pytest.raises(ValueError, match=r"context of shape \(5, 3\)"):
        build(kind, context_dim=2)(x, torch.randn(5, 3))
    with pytest.raises(ValueError, match="Expand x"):
        build(kind, context_dim=2)(x, torch.randn(4, 5, 2))


@pytest.mark.parametrize("kind", ["mlp", "masked"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_follows(kind: str, dtype: torch.dtype) -> None:
    network = build(kind, context_dim=2).to(dtype)
    assert network(torch.randn(3, 5, dtype=dtype), torch.randn(5, 2, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("kind", ["mlp", "masked"])
def test_meta(kind: str) -> None:
    with torch.device("meta"):
        network = build(kind, context_dim=2)
    network.to("meta")
    out = network(torch.randn(3, 4, 5, device="meta"), torch.randn(5, 2, device="meta"))
    assert out.shape == (6, 4, 5)
    assert out.is_meta


@pytest.mark.parametrize("kind", ["mlp", "masked"])
def test_vmap(kind: str) -> None:
    network = perturbed(build(kind, context_dim=2))
    x, context = torch.randn(4, 3, 5).double(), torch.randn(4, 5, 2).double()
    out = torch.vmap(network)(x, context)
    for i in range(4):
        torch.testing.assert_close(out[i], network(x[i], context[i]))


@pytest.mark.parametrize("kind", ["mlp", "masked"])
def test_compiles_without_a_break(kind: str) -> None:
    network = perturbed(build(kind, context_dim=2))
    x, context = torch.randn(3, 4, 5).double(), torch.randn(5, 2).double()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, context), network(x, context))


@pytest.mark.parametrize("kind", ["mlp", "masked"])
def test_deepcopy_and_pickle(kind: str) -> None:
    network = perturbed(build(kind))
    x = torch.randn(3, 5).double()
    for copied in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(copied(x), network(x))


@pytest.mark.parametrize("kind", ["mlp", "masked"])
def test_bayesian_weights(kind: str) -> None:
    network = build(kind)
    to_pyro_module_(network)
    linear = network.output
    linear.weight = PyroSample(dist.Normal(0, 1).expand([6, 8]).to_event(2))
    x = torch.randn(3, 5)
    with pyro.poutine.trace() as tracer:
        first = network(x)
    second = network(x)
    sites = [name for name, site in tracer.trace.nodes.items() if site["type"] == "sample"]
    assert sites == ["output.weight"]
    assert not torch.equal(first, second)
