"""How weights of ours get into flowjax's flows.

Flowjax stacks the layers' arrays, listed in its fast direction, and permutes the features after
each. Here the permutation is a reversal, so that a layer sees the features in one of two orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import equinox
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

from benchmarks._peers import ours
from benchmarks._peers.architecture import Spec
from benchmarks._peers.bijections import Scaled, flowjax_scale
from benchmarks._peers.weights import layers_of
from pyro_nf.bijections import RationalQuadraticSpline, ScalarBijection
from pyro_nf.distributions import Flow
from pyro_nf.transforms import Autoregressive, Coupling, Joint


def corresponds(spec: Spec) -> bool:
    """Says whether the two have one architecture: its block networks have other activations."""
    if spec.family == "planar":
        return True
    return spec.family != "bnaf" and spec.transforms % 2 == 1  # else our first order is reversed


def reference(spec: Spec) -> Flow:
    """Creates our flow with flowjax's bijection."""
    masks = [_is_kept(spec, i) for i in range(spec.transforms)]
    return ours.flow(spec, bijection=_bijection(spec), masks=masks, turned=spec.splits)


def _bijection(spec: Spec) -> ScalarBijection:
    if not spec.splines:
        return Scaled(flowjax_scale)
    least = 1e-3 / (2 * spec.bound)  # flowjax's least width is in units of x
    return RationalQuadraticSpline(
        bins=spec.bins, bound=spec.bound, boundary_slopes="learned", min_bin=least
    )


def _is_kept(spec: Spec, number: int) -> Tensor:
    """A coupling keeps the first ⌊D/2⌋ features of the order that it sees."""
    mask = torch.zeros(spec.dim, dtype=torch.bool, device="cpu")
    mask[ours.frame(spec, number)[: spec.dim // 2]] = True
    return mask


@torch.no_grad()
def adopt(theirs: Any, spec: Spec, flow: Flow, *, turned: bool) -> Any:
    """Creates flowjax's flow with our weights.

    Args:
        theirs: Its flow.
        spec: The architecture.
        flow: The reference.
        turned: Whether its layers are listed from data to base.
    """
    if spec.dim > 2:  # two dimensions are exchanged as it is
        theirs = _reversing(theirs, spec, turned=turned)
    if spec.family == "planar":
        joints = [part for part in flow.modules() if isinstance(part, Joint)]
        rows = [_planar(spec, i, joint) for i, joint in enumerate(joints)]
        return _replaced(theirs, lambda f: _layer(f, turned=turned).params, np.stack(rows))
    layers = layers_of(flow)
    layers = layers[::-1] if turned else layers
    stacked = [_network(spec, i, layer) for i, layer in enumerate(layers)]
    for depth in range(len(spec.hidden_dims) + 1):
        weights, biases, masks = (
            np.stack([part[depth][kind] for part in stacked]) for kind in range(3)
        )
        theirs = _replaced(theirs, partial(_bias, depth=depth, turned=turned), biases)
        theirs = _replaced(theirs, partial(_weight, depth=depth, turned=turned), weights)
        if not spec.splits:
            theirs = _replaced(theirs, partial(_mask, depth=depth, turned=turned), masks > 0)
    return theirs


def _layer(theirs: Any, *, turned: bool) -> Any:
    scan = theirs.bijection.bijection if turned else theirs.bijection
    return scan.bijection.bijections[0]


def _linear(theirs: Any, *, depth: int, turned: bool) -> Any:
    layer = _layer(theirs, turned=turned)
    network = layer.conditioner if hasattr(layer, "conditioner") else None
    return (network or layer.masked_autoregressive_mlp).layers[depth]


def _bias(theirs: Any, *, depth: int, turned: bool) -> Any:
    return _linear(theirs, depth=depth, turned=turned).bias


def _weight(theirs: Any, *, depth: int, turned: bool) -> Any:
    weight = _linear(theirs, depth=depth, turned=turned).weight
    return weight.args[1] if hasattr(weight, "args") else weight


def _mask(theirs: Any, *, depth: int, turned: bool) -> Any:
    return _linear(theirs, depth=depth, turned=turned).weight.args[0]


def _replaced(theirs: Any, where: Any, values: np.ndarray) -> Any:
    old = where(theirs)
    if old.shape != values.shape:
        raise ValueError(f"flowjax has an array of shape {old.shape} for ours of {values.shape}.")
    return equinox.tree_at(where, theirs, jnp.asarray(values, old.dtype))


def _reversing(theirs: Any, spec: Spec, *, turned: bool) -> Any:
    def permutations(flow: Any) -> Sequence[Any]:
        scan = flow.bijection.bijection if turned else flow.bijection
        permute = scan.bijection.bijections[1]
        return (*permute.permutation, *permute.inverse_permutation)

    reversal = jnp.tile(jnp.arange(spec.dim)[::-1], (spec.transforms, 1))
    return equinox.tree_at(permutations, theirs, (reversal, reversal))


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def _network(spec: Spec, number: int, layer: Coupling | Autoregressive) -> list[Arrays]:
    """Weight, bias and mask of each of its layers, as flowjax orders inputs and outputs."""
    frame = ours.frame(spec, number)
    inputs = moved = frame
    if spec.splits:
        inputs, moved = frame[: spec.dim // 2], frame[spec.dim // 2 :]
        inputs, moved = inputs.argsort().argsort(), moved.argsort().argsort()
    params = layer.bijection.param_count
    index = torch.arange(params * len(moved)).view(params, len(moved))
    rows = index[:, moved].t().flatten()
    linears = [*layer.network.hidden, layer.network.output]
    arrays = []
    for depth, linear in enumerate(linears):
        mask = getattr(linear, "mask", None)
        both = [linear.weight, torch.ones_like(linear.weight) if mask is None else mask]
        bias = linear.bias
        if depth == 0:
            both = [matrix[:, inputs] for matrix in both]
        if depth == len(linears) - 1:
            both, bias = [matrix[rows] for matrix in both], bias[rows]
        arrays.append((both[0].numpy(), bias.numpy(), both[1].numpy()))
    return arrays


def _planar(spec: Spec, number: int, joint: Joint) -> np.ndarray:
    """Flowjax has 1 + wᵀû = log(1 + softplus(wᵀu)), we a + √(1 + a²)."""
    values: dict[str, Tensor] = dict(joint.named_parameters())
    w, u, b = values["weight"], values["scale"], values["bias"]
    a = w @ u
    slope = a + torch.sqrt(1 + a.square())
    along = torch.log(torch.expm1(torch.expm1(slope)))
    u = u + (along - a) * w / w.square().sum()
    frame = ours.frame(spec, number)
    return torch.cat([w[frame], u[frame], b.reshape(1)]).numpy()
