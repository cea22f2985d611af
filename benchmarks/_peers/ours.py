"""The architectures in pyro_nf."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks._peers.architecture import Spec
from benchmarks._peers.contender import Model
from pyro_nf.bijections import (
    Affine,
    DeepSigmoidal,
    Planar,
    RationalQuadraticSpline,
    ScalarBijection,
)
from pyro_nf.distributions import DiagonalNormal, Flow
from pyro_nf.transforms import (
    Autoregressive,
    BlockAutoregressive,
    Coupling,
    FlowTransform,
    Joint,
    coupling_mask,
)


def model(spec: Spec) -> Model:
    """Creates our flow as it is timed."""
    return as_model(flow(spec))


def as_model(built: Flow) -> Model:
    """Puts a flow of ours behind the common names."""

    def rsample_and_log_prob(rows: int) -> tuple[Tensor, Tensor]:
        distribution = built()
        x = distribution.rsample((rows,))
        return x, distribution.log_prob(x)

    return Model(
        built,
        lambda x: built().log_prob(x),
        lambda rows: built().rsample((rows,)),
        rsample_and_log_prob,
    )


def flow(
    spec: Spec,
    *,
    bijection: ScalarBijection | None = None,
    masks: Sequence[Tensor] | None = None,
    turned: bool = False,
) -> Flow:
    """Creates our flow.

    Args:
        spec: The architecture.
        bijection: What stands in for our own scalar bijection.
        masks: What each coupling keeps; None for halves in turn.
        turned: Whether to take each layer's inverse, so that the bijection of a coupling runs
            from data to base.
    """
    bijection = own_bijection(spec) if bijection is None else bijection
    layers = [_layer(spec, i, bijection, masks) for i in range(spec.transforms)]
    parts = [layer.inv if turned else layer for layer in layers]
    return Flow(DiagonalNormal(spec.dim), parts)


def own_bijection(spec: Spec) -> ScalarBijection:
    """The scalar bijection that we are timed with."""
    if spec.family == "naf":
        return DeepSigmoidal(units=spec.units)
    if spec.splines:
        return RationalQuadraticSpline(bins=spec.bins, bound=spec.bound)
    return Affine()


def kept(spec: Spec, number: int) -> Tensor:
    """What a coupling keeps: one half or the other, in turn."""
    return coupling_mask(spec.dim, "half", parity=number % 2)


def order(spec: Spec, number: int) -> list[int]:
    """The order of an autoregressive layer: natural and reversed, in turn."""
    natural = list(range(spec.dim))
    return natural[::-1] if number % 2 else natural


def fast_direction(spec: Spec) -> str:
    """The direction in which an autoregressive layer takes one pass."""
    return "sample" if spec.family in ("iaf", "nsf_inverse") else "log_prob"


def _layer(
    spec: Spec, number: int, bijection: ScalarBijection, masks: Sequence[Tensor] | None
) -> FlowTransform:
    if spec.family == "planar":
        return Joint(Planar(), spec.dim)
    if spec.family == "bnaf":
        return BlockAutoregressive(spec.dim, (spec.factor, spec.factor), fast="log_prob")
    if spec.splits:
        mask = kept(spec, number) if masks is None else masks[number]
        return Coupling(bijection, spec.dim, mask=mask, hidden_dims=spec.hidden_dims)
    return Autoregressive(
        bijection,
        spec.dim,
        fast="sample" if fast_direction(spec) == "sample" else "log_prob",
        order=order(spec, number),
        hidden_dims=spec.hidden_dims,
    )


def frame(spec: Spec, number: int) -> Tensor:
    """The features as a library sees them that reverses them between layers."""
    return torch.tensor(order(spec, number), device="cpu")
