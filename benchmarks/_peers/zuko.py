"""The architectures in zuko."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributions import Distribution

from benchmarks._peers import ours
from benchmarks._peers.architecture import Spec
from benchmarks._peers.bijections import bounded_spline
from benchmarks._peers.contender import NOT_SHARED, Model
from benchmarks._peers.weights import adopt, conditioner, features_first, linears_of
from pyro_nf.bijections import Affine
from pyro_nf.distributions import Flow

_VALIDATES = Distribution._validate_args
import zuko  # noqa: E402  (it turns off argument validation for all of torch)

Distribution.set_default_validate_args(_VALIDATES)


@contextmanager
def without_validation() -> Iterator[None]:
    """Runs as zuko's users have it, who never see torch's checks of arguments."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def build(spec: Spec) -> Model | None:
    """Creates zuko's flow; None where it has none."""
    if spec.family in ("bnaf", "planar") or (spec.family == "naf" and spec.transforms > 1):
        return None
    with without_validation():
        return _neural(spec) if spec.family == "naf" else _wired(spec)


def _wired(spec: Spec) -> Model:
    """Zuko lists its transforms from data to base."""
    shapes: list[tuple[int, ...]] = [(), ()]
    univariate: Any = zuko.transforms.MonotonicAffineTransform
    bijection: Any = Affine(max_log_scale=-math.log(1e-3))
    if spec.splines:
        shapes = [(spec.bins,), (spec.bins,), (spec.bins - 1,)]
        univariate = partial(zuko.transforms.MonotonicRQSTransform, bound=spec.bound)
        bijection = bounded_spline(spec.bins, spec.bound)
    options = {"univariate": univariate, "shapes": shapes, "hidden_features": spec.hidden_dims}
    make = _coupling if spec.splits else _autoregressive
    layers: list[Any] = [make(spec, i, options) for i in range(spec.transforms)]
    conditioners = []
    for i, layer in enumerate(layers):
        kept, moved = _features(spec, i)
        conditioners.append(
            conditioner(
                linears_of(layer.hyper),
                range(kept),
                range(moved),
                spec.params_per_input,
                features_first,
            )
        )
    parts = layers
    if ours.fast_direction(spec) == "sample":
        parts = [zuko.lazy.LazyInverse(layer) for layer in layers]
    flow = zuko.flows.Flow(parts[::-1], _base(spec))
    reference = partial(ours.flow, spec, bijection=bijection, turned=spec.splits)
    return _model(flow, reference, partial(adopt, conditioners))


def _features(spec: Spec, number: int) -> tuple[int, int]:
    """How many features a layer reads and moves."""
    kept = int(ours.kept(spec, number).sum())
    return (kept, spec.dim - kept) if spec.splits else (spec.dim, spec.dim)


def _coupling(spec: Spec, number: int, options: dict[str, Any]) -> nn.Module:
    mask = ours.kept(spec, number)
    return zuko.flows.GeneralCouplingTransform(spec.dim, mask=mask, **options)


def _autoregressive(spec: Spec, number: int, options: dict[str, Any]) -> nn.Module:
    # Natural or reversed: such an order is its own inverse, whichever of the two zuko means.
    order = ours.order(spec, number)
    return zuko.flows.MaskedAutoregressiveTransform(spec.dim, order=order, **options)


def _neural(spec: Spec) -> Model | None:
    """Another network than ours, a monotone one that reads a signal."""
    from benchmarks.naf import count, zukos

    flow = zukos(spec.dim, spec.hidden_dims[0], count(ours.flow(spec)))
    return _model(flow, apart="another network of about as many weights")


def _base(spec: Spec) -> nn.Module:
    return zuko.lazy.UnconditionalDistribution(
        zuko.distributions.DiagNormal,
        loc=torch.zeros(spec.dim),
        scale=torch.ones(spec.dim),
        buffer=True,
    )


def _model(
    flow: Any,
    reference: Callable[[], Flow] | None = None,
    take: Callable[[Flow], None] | None = None,
    apart: str = NOT_SHARED,
) -> Model:
    """Puts a flow behind the common names: its lazy form is called for each use."""
    return Model(
        flow,
        lambda x: flow().log_prob(x),
        lambda rows: flow().rsample((rows,)),
        lambda rows: flow().rsample_and_log_prob((rows,)),
        reference,
        take,
        apart,
        without_validation,
    )
