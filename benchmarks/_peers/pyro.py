"""The architectures in Pyro."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from pyro.nn import AutoRegressiveNN, DenseNN
from torch import Tensor, nn

from benchmarks._peers import ours
from benchmarks._peers.architecture import Spec
from benchmarks._peers.bijections import Scaled, clamped, mixture_of_sigmoids, pyro_spline
from benchmarks._peers.contender import Model
from benchmarks._peers.correspondences import adopt_blocks, adopt_planar
from benchmarks._peers.weights import (
    Layout,
    adopt,
    conditioner,
    features_first,
    linears_of,
    parameters_first,
)
from pyro_nf.bijections import ScalarBijection
from pyro_nf.distributions import Flow


def build(spec: Spec) -> Model | None:
    """Creates Pyro's flow; None where it has none."""
    if spec.splits:
        return _coupling(spec)
    if spec.family == "bnaf":
        return _block(spec)
    if spec.family == "planar":
        return _planar(spec)
    return _autoregressive(spec)


def _bijection(spec: Spec) -> ScalarBijection:
    if spec.family == "naf":
        return mixture_of_sigmoids(spec.units)
    return pyro_spline(spec.bins, spec.bound) if spec.splines else Scaled(clamped)


def _coupling(spec: Spec) -> Model:
    """Couplings keep what comes first, so the halves change places between them."""
    layers, chain, conditioners = [], [], []
    for i in range(spec.transforms):
        kept = int(ours.kept(spec, i).sum())
        moved = spec.dim - kept
        layer, network = _coupling_layer(spec, kept, moved)
        layers.append(layer)
        chain += [layer, T.Permute(torch.arange(spec.dim).roll(-kept))]
        linears, layout = linears_of(network), _dense_layout(spec)
        conditioners.append(
            conditioner(linears, range(kept), range(moved), spec.params_per_input, layout)
        )
    if spec.transforms % 2:
        chain.pop()  # an odd number of exchanges would end with the halves exchanged
    reference = partial(ours.flow, spec, bijection=_bijection(spec))
    return _model(spec, layers, chain, reference, partial(adopt, conditioners))


def _coupling_layer(spec: Spec, kept: int, moved: int) -> tuple[nn.Module, nn.Module]:
    widths = list(spec.hidden_dims)
    if not spec.splines:
        network = DenseNN(kept, widths, [moved, moved])
        return T.AffineCoupling(kept, network), network
    k = spec.bins
    network = DenseNN(kept, widths, [moved * k, moved * k, moved * (k - 1)])
    layer = T.SplineCoupling(spec.dim, kept, network, k, spec.bound, "quadratic", identity=True)
    layer.lower_spline.requires_grad_(requires_grad=False)  # it has one even if it is not used
    return layer, network


def _dense_layout(spec: Spec) -> Layout:
    """Each kind of parameter of a spline has a block in which a feature's lie together."""
    if not spec.splines:
        return parameters_first
    sizes = [spec.bins, spec.bins, spec.bins - 1]
    return lambda index: torch.cat([features_first(part) for part in index.split(sizes)])


def _autoregressive(spec: Spec) -> Model:
    """Pyro's layers are fast from x to y; a density estimator takes their inverses."""
    layers, conditioners = [], []
    for i in range(spec.transforms):
        network = AutoRegressiveNN(
            spec.dim, list(spec.hidden_dims), _param_dims(spec), torch.tensor(ours.order(spec, i))
        )
        layers.append(_autoregressive_layer(spec, network))
        layout = _sigmoid_layout(spec.units) if spec.family == "naf" else parameters_first
        every = range(spec.dim)
        conditioners.append(
            conditioner(linears_of(network), every, every, spec.params_per_input, layout)
        )
    turned = ours.fast_direction(spec) == "log_prob"
    chain = [layer.inv if turned else layer for layer in layers]
    reference = partial(ours.flow, spec, bijection=_bijection(spec))
    return _model(spec, layers, chain, reference, partial(adopt, conditioners))


def _autoregressive_layer(spec: Spec, network: nn.Module) -> Any:
    if spec.family == "naf":
        return T.NeuralAutoregressive(network, hidden_units=spec.units)
    if spec.splines:
        return T.SplineAutoregressive(spec.dim, network, spec.bins, spec.bound, "quadratic")
    return T.AffineAutoregressive(network)


def _param_dims(spec: Spec) -> list[int]:
    if spec.family == "naf":
        return [spec.units] * 3
    return [spec.bins, spec.bins, spec.bins - 1] if spec.splines else [1, 1]


def _sigmoid_layout(units: int) -> Layout:
    """Pyro has slopes, weights, shifts; we slopes, shifts, weights."""
    return lambda index: index.unflatten(0, (3, units))[[0, 2, 1]].flatten()


def _block(spec: Spec) -> Model:
    factors = [spec.factor] * len(spec.hidden_dims)
    layers = [
        T.BlockAutoregressive(spec.dim, factors, residual="gated") for _ in range(spec.transforms)
    ]
    chain = [layer.inv for layer in layers]
    return _model(spec, layers, chain, partial(ours.flow, spec), partial(adopt_blocks, layers))


def _planar(spec: Spec) -> Model:
    layers = [T.planar(spec.dim) for _ in range(spec.transforms)]
    take = partial(adopt_planar, layers, ("w", "u", "bias"))
    return _model(spec, layers, layers, partial(ours.flow, spec), take)


def _model(
    spec: Spec,
    layers: Sequence[nn.Module],
    chain: Sequence[Any],
    reference: Callable[[], Flow],
    take: Callable[[Flow], None],
) -> Model:
    base = dist.Normal(torch.zeros(spec.dim), torch.ones(spec.dim)).to_event(1)
    flow = dist.TransformedDistribution(base, list(chain))

    def rsample_and_log_prob(rows: int) -> tuple[Tensor, Tensor]:
        x = flow.rsample((rows,))
        return x, flow.log_prob(x)

    return Model(
        nn.ModuleList(layers),
        flow.log_prob,
        lambda rows: flow.rsample((rows,)),
        rsample_and_log_prob,
        reference,
        take,
    )
