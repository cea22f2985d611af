"""The architectures in normflows."""

from __future__ import annotations

from functools import partial
from typing import Any

import normflows
import torch
from normflows.flows.neural_spline.autoregressive import (
    MaskedPiecewiseRationalQuadraticAutoregressive,
)
from normflows.flows.neural_spline.coupling import PiecewiseRationalQuadraticCoupling
from torch import Tensor, nn

from benchmarks._peers import ours
from benchmarks._peers.architecture import Spec
from benchmarks._peers.bijections import Scaled, sigmoid_scale, softplus_spline
from benchmarks._peers.contender import Model
from benchmarks._peers.correspondences import adopt_planar
from benchmarks._peers.rows import RowMLP, made_layout, scale_divisor
from benchmarks._peers.weights import adopt, conditioner, features_first, linears_of


class Turned(normflows.flows.Flow):
    """A layer's inverse, as normflows' own spline layers have it: fast from data to base."""

    def __init__(self, layer: normflows.flows.Flow) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Base -> data."""
        return self.layer.inverse(z)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Data -> base."""
        return self.layer.forward(z)


def build(spec: Spec) -> Model | None:
    """Creates normflows' flow; None where it has none."""
    if spec.family in ("naf", "bnaf"):
        return None
    if spec.family == "planar":
        return _planar(spec)
    if spec.family == "realnvp":
        return _affine_coupling(spec)
    return _spline_coupling(spec) if spec.splits else _autoregressive(spec)


def _affine_coupling(spec: Spec) -> Model:
    """Couplings keep one chunk or the other; the first is the larger one, ours the smaller."""
    smaller = spec.dim // 2
    layers, masks, conditioners = [], [], []
    for i in range(spec.transforms):
        kept = spec.dim - smaller if i % 2 else smaller
        moved = spec.dim - kept
        network = normflows.nets.MLP([kept, *spec.hidden_dims, 2 * moved])
        mode = "channel" if i % 2 else "channel_inv"
        layers.append(normflows.flows.AffineCouplingBlock(network, split_mode=mode))
        last = torch.arange(spec.dim, device="cpu") >= spec.dim - smaller
        masks.append(~last if i % 2 else last)
        conditioners.append(
            conditioner(linears_of(network), range(kept), range(moved), 2, features_first)
        )
    reference = partial(ours.flow, spec, bijection=Scaled(torch.Tensor.clone), masks=masks)
    return _model(spec, layers, reference, partial(adopt, conditioners))


def _spline_coupling(spec: Spec) -> Model:
    layers, conditioners = [], []
    for i in range(spec.transforms):
        kept = ours.kept(spec, i)
        layer = PiecewiseRationalQuadraticCoupling(
            torch.tensor((~kept).long().tolist()),
            partial(RowMLP, widths=spec.hidden_dims),
            num_bins=spec.bins,
            tails="linear",
            tail_bound=spec.bound,
        )
        layers.append(layer)
        read = int(kept.sum())
        linears, moved = linears_of(layer.transform_net), range(spec.dim - read)
        conditioners.append(
            conditioner(linears, range(read), moved, spec.params_per_input, features_first)
        )
    divisor = scale_divisor(layers[0].transform_net)
    spline = softplus_spline(spec.bins, spec.bound, divisor)
    reference = partial(ours.flow, spec, bijection=spline, turned=True)
    return _model(
        spec, [Turned(layer) for layer in layers], reference, partial(adopt, conditioners)
    )


def _autoregressive(spec: Spec) -> Model:
    layers, conditioners = [], []
    options: dict[str, Any] = {"num_blocks": len(spec.hidden_dims) - 1}
    options["use_residual_blocks"] = False
    for i in range(spec.transforms):
        layer: Any
        if spec.splines:
            layer = MaskedPiecewiseRationalQuadraticAutoregressive(
                spec.dim,
                spec.hidden,
                num_bins=spec.bins,
                tails="linear",
                tail_bound=spec.bound,
                **options,
            )
        else:
            layer = normflows.flows.MaskedAffineAutoregressive(spec.dim, spec.hidden, **options)
        layers.append(layer)
        network = layer.autoregressive_net
        # Without residual blocks it has no activation there, which nflows, its origin, has.
        network.initial_layer = nn.Sequential(network.initial_layer, nn.ReLU())
        seen = ours.frame(spec, i)
        conditioners.append(
            conditioner(
                linears_of(network),
                seen,
                seen,
                spec.params_per_input,
                made_layout(spec),
            )
        )
    bijection: Any = Scaled(sigmoid_scale)
    if spec.splines:
        divisor = scale_divisor(layers[0].autoregressive_net)
        bijection = softplus_spline(spec.bins, spec.bound, divisor)
    turned = ours.fast_direction(spec) == "log_prob"
    chain = []
    for layer in layers:
        chain += [Turned(layer) if turned else layer, _reversal(spec.dim)]
    if spec.transforms % 2:
        chain.pop()
    reference = partial(ours.flow, spec, bijection=bijection)
    return _model(spec, chain, reference, partial(adopt, conditioners))


def _reversal(dim: int) -> normflows.flows.Permute:
    """A reversal, which normflows lacks, in the buffers of a shuffle."""
    permute = normflows.flows.Permute(dim, mode="shuffle")
    permute.perm.copy_(torch.arange(dim).flip(0))
    permute.inv_perm.copy_(torch.arange(dim).flip(0))
    return permute


def _planar(spec: Spec) -> Model:
    layers = [normflows.flows.Planar((spec.dim,)) for _ in range(spec.transforms)]
    take = partial(adopt_planar, layers, ("w", "u", "b"))
    return _model(spec, layers, partial(ours.flow, spec), take)


def _model(spec: Spec, layers: list[Any], *correspondence: Any) -> Model:
    base = normflows.distributions.base.DiagGaussian(spec.dim, trainable=False)
    flow = normflows.NormalizingFlow(base, layers)

    def rsample(rows: int) -> Tensor:
        return flow.sample(rows)[0]

    return Model(flow, flow.log_prob, rsample, flow.sample, *correspondence)
