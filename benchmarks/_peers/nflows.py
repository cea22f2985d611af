"""The architectures in nflows."""

from __future__ import annotations

from functools import partial
from typing import Any

from nflows.distributions import StandardNormal
from nflows.flows import Flow as NFlow
from nflows.transforms import (
    AffineCouplingTransform,
    CompositeTransform,
    InverseTransform,
    MaskedAffineAutoregressiveTransform,
    MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
    PiecewiseRationalQuadraticCouplingTransform,
    ReversePermutation,
)
from torch import Tensor

from benchmarks._peers import ours
from benchmarks._peers.architecture import Spec
from benchmarks._peers.bijections import Scaled, sigmoid_scale, softplus_scale, softplus_spline
from benchmarks._peers.contender import Model
from benchmarks._peers.rows import RowMLP, made_layout, scale_divisor
from benchmarks._peers.weights import (
    adopt,
    conditioner,
    features_first,
    linears_of,
    parameters_first,
)


def build(spec: Spec) -> Model | None:
    """Creates nflows' flow; None where it has none."""
    if spec.family in ("naf", "bnaf", "planar"):
        return None
    return _coupling(spec) if spec.splits else _autoregressive(spec)


def _coupling(spec: Spec) -> Model:
    """Nflows lists its transforms from data to base, and couplings run forward that way."""
    layers, conditioners = [], []
    for i in range(spec.transforms):
        kept = ours.kept(spec, i)
        moves = (~kept).long().tolist()
        network = partial(RowMLP, widths=spec.hidden_dims)
        layer: Any
        if spec.splines:
            layer = PiecewiseRationalQuadraticCouplingTransform(
                moves,
                network,
                num_bins=spec.bins,
                tails="linear",
                tail_bound=spec.bound,
            )
        else:
            layer = AffineCouplingTransform(moves, network)
        layers.append(layer)
        read = int(kept.sum())
        layout = features_first if spec.splines else parameters_first
        linears = linears_of(layer.transform_net)
        conditioners.append(
            conditioner(
                linears, range(read), range(spec.dim - read), spec.params_per_input, layout
            )
        )
    bijection: Any = Scaled(sigmoid_scale)
    if spec.splines:
        divisor = scale_divisor(layers[0].transform_net)
        bijection = softplus_spline(spec.bins, spec.bound, divisor)
    reference = partial(ours.flow, spec, bijection=bijection, turned=True)
    return _model(spec, layers[::-1], reference, partial(adopt, conditioners))


def _autoregressive(spec: Spec) -> Model:
    layers, conditioners = [], []
    options: dict[str, Any] = {"num_blocks": len(spec.hidden_dims) - 1}
    options["use_residual_blocks"] = False
    for i in range(spec.transforms):
        layer: Any
        if spec.splines:
            layer = MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
                spec.dim,
                spec.hidden,
                num_bins=spec.bins,
                tails="linear",
                tail_bound=spec.bound,
                **options,
            )
        else:
            layer = MaskedAffineAutoregressiveTransform(spec.dim, spec.hidden, **options)
        layers.append(layer)
        seen = ours.frame(spec, i)
        linears = linears_of(layer.autoregressive_net)
        conditioners.append(
            conditioner(linears, seen, seen, spec.params_per_input, made_layout(spec))
        )
    bijection: Any = Scaled(softplus_scale)
    if spec.splines:
        divisor = scale_divisor(layers[0].autoregressive_net)
        bijection = softplus_spline(spec.bins, spec.bound, divisor)
    chain = []
    for layer in layers:
        chain += [layer, ReversePermutation(spec.dim)]
    if spec.transforms % 2:
        chain.pop()
    fast = ours.fast_direction(spec)
    if fast == "log_prob":
        chain = chain[::-1]
    reference = partial(ours.flow, spec, bijection=bijection)
    return _model(spec, chain, reference, partial(adopt, conditioners), turned=fast == "sample")


def _model(spec: Spec, chain: list[Any], *correspondence: Any, turned: bool = False) -> Model:
    transform = CompositeTransform(chain)
    flow = NFlow(InverseTransform(transform) if turned else transform, StandardNormal([spec.dim]))

    def rsample(rows: int) -> Tensor:
        return flow.sample(rows)  # keeps its graph unless told otherwise

    return Model(flow, flow.log_prob, rsample, flow.sample_and_log_prob, *correspondence)
