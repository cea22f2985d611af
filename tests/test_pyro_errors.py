"""Messages name what the user passed, and say what to pass instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pyro.nn import AutoRegressiveNN, DenseNN

from pyro_nf import bijections as B  # noqa: N812
from pyro_nf import flows
from pyro_nf import transforms as T  # noqa: N812
from pyro_nf.nn import MLP

torch.set_num_threads(1)

X, C = torch.zeros(7, 4), torch.zeros(7, 3)


def dense(input_dim: int, *param_dims: int) -> DenseNN:
    return DenseNN(input_dim, [8], list(param_dims))


def refused(error: type[Exception], message: str, make: Callable[[], Any]) -> None:
    with pytest.raises(error, match=message) as caught:
        make()
    assert ". " in str(caught.value)  # a sentence of fact, then one of remedy


NETWORKS = {
    "AffineCoupling got 3": lambda: T.AffineCoupling(2, 3),
    "AffineCoupling got None": lambda: T.AffineCoupling(2, None),
    "AffineCoupling got 'x'": lambda: T.AffineCoupling(2, "x"),
    "AffineCoupling got from its network a value of type NoneType": lambda: T.AffineCoupling(
        2, lambda kept: None
    )(X),
    "ConditionalPlanar got 3": lambda: T.ConditionalPlanar(3),
    "ConditionalSpline got 3": lambda: T.ConditionalSpline(3, 4, 8),
}


@pytest.mark.parametrize("message", NETWORKS)
def test_what_is_no_network_is_refused(message: str) -> None:
    refused(TypeError, message, NETWORKS[message])


SIZES = {
    r"\(7, 3\), \(7, 3\), where 2 numbers .*sum to 4": lambda: T.AffineCoupling(2, dense(2, 3, 3))(
        X
    ),
    "input_dim=3 and has 2 elements": lambda: T.AffineCoupling(2, dense(3, 2, 2))(X),
    "network of 5 outputs": lambda: T.AffineCoupling(2, MLP(2, 5))(X),
    "SplineCoupling got from its network.*sum to 62": lambda: T.SplineCoupling(
        4, 2, dense(2, 3, 3)
    )(X),
    "ConditionalSpline got from its network.*sum to 124": lambda: T.ConditionalSpline(
        dense(3, 4, 4), 4, 8
    ).condition(C)(X),
    "context_dim=2 and a network of input_dim=3": lambda: T.ConditionalSpline(
        dense(3, 4, 4), 4, 8, context_dim=2
    ),
    r"ConditionalPlanar of size 4.*param_dims=\[1, 4, 4\]": lambda: T.ConditionalPlanar(
        dense(3, 1, 2, 2), input_dim=4
    ).condition(C)(X),
    r"ConditionalHouseholder of size 4.*param_dims=\[4, 4\]": lambda: T.ConditionalHouseholder(
        4, dense(3, 4), 2
    ).condition(C)(X),
    r"ConditionalMatrixExponential of size 4.*param_dims=\[16\]": lambda: (
        T.ConditionalMatrixExponential(4, dense(3, 4)).condition(C)(X)
    ),
    r"ConditionalGeneralizedChannelPermute of size 3.*param_dims=\[9\]": lambda: (
        T.ConditionalGeneralizedChannelPermute(dense(3, 4)).condition(C)(torch.zeros(7, 3, 2, 2))
    ),
    "ConditionalAffineAutoregressive got a network that reads no context": lambda: (
        T.ConditionalAffineAutoregressive(AutoRegressiveNN(4, [8]))
    ),
    "ConditionalAffineCoupling got a network that reads no context": lambda: (
        T.ConditionalAffineCoupling(2, dense(2, 2, 2))
    ),
}


@pytest.mark.parametrize("message", SIZES)
def test_networks_of_other_sizes_are_refused(message: str) -> None:
    refused(ValueError, message, SIZES[message])


OPTIONS = {
    "log_scale_max_clip=-3.0": lambda: T.affine_autoregressive(3, log_scale_max_clip=-3.0),
    "log_scale_min_clip=3.0": lambda: T.affine_coupling(3, log_scale_min_clip=3.0),
    "sigmoid_bias=nan": lambda: T.affine_autoregressive(3, stable=True, sigmoid_bias=float("nan")),
    "count_sum=0": lambda: T.polynomial(2, count_sum=0),
    "width=0": lambda: T.neural_autoregressive(2, width=0),
    "hidden_units=0": lambda: T.NeuralAutoregressive(AutoRegressiveNN(4, [8]), 0),
    "Sylvester got count_transforms=0": lambda: T.sylvester(2, count_transforms=0),
    "Householder got count_transforms=0": lambda: T.householder(2, count_transforms=0),
    "epsilon=-1.0": lambda: T.batchnorm(2, epsilon=-1.0),
    "count_bins=1,": lambda: T.spline(2, count_bins=1),
    "realnvp got mask='foo'": lambda: flows.realnvp(2, mask="foo"),
    "Coupling got mask='foo'": lambda: T.Coupling(B.Affine(), 2, mask="foo"),
    r"bnaf\(input_dim=2\) got order": lambda: flows.bnaf(2, order=[0, 0]),
    r"affine_autoregressive\(input_dim=3\) got permutation": lambda: T.affine_autoregressive(
        3, permutation=[0, 0, 1]
    ),
    r"^Autoregressive\(input_dim=3\) got order": lambda: T.Autoregressive(
        B.Affine(), 3, fast="sample", order=[0, 0, 1]
    ),
    "dim=1. Pass a negative dim": lambda: T.affine_coupling(4, dim=1),
    "dim=0. Pass a negative dim": lambda: T.permute(3, dim=0),
    "permutation of 2 .*Pass every integer from 0 to 2": lambda: T.permute(3, [0, 1]),
    "nothing to move. Pass a larger event": lambda: T.AffineCoupling(5, dense(5, 1, 1))(X),
    "residual='foo'. Pass one of None": lambda: T.BlockAutoregressive(2, residual="foo"),
}


@pytest.mark.parametrize("message", OPTIONS)
def test_values_out_of_range_are_refused_under_the_users_name(message: str) -> None:
    refused(ValueError, message, OPTIONS[message])


TYPES = {
    "iterated got 'a'": lambda: T.iterated(3, "a"),
    "permute got dim='a'": lambda: T.permute(3, dim="a"),
    "lipschitz='a'": lambda: flows.residual_flow(2, lipschitz="a"),
    "series=3": lambda: flows.residual_flow(2, series=3),
    "adjacency of type str": lambda: flows.nsf(3, adjacency="foo"),
    "Chain got Affine": lambda: B.Chain(B.Affine()),
    "BlockAutoregressive got root=3": lambda: T.BlockAutoregressive(2, root=3),
    "InvertibleResidual got root=3": lambda: T.InvertibleResidual(2, fast="sample", root=3),
}


@pytest.mark.parametrize("message", TYPES)
def test_values_of_another_type_are_refused(message: str) -> None:
    refused(TypeError, message, TYPES[message])


@pytest.mark.parametrize(
    "name",
    [
        "Bernstein",
        "DeepDenseSigmoidal",
        "DeepSigmoidal",
        "GaussianMixtureProbit",
        "LogisticMixture",
        "Planar",
        "SumOfSquares",
        "Sylvester",
        "UnconstrainedMonotonic",
    ],
)
def test_roots_are_checked(name: str) -> None:
    refused(TypeError, f"{name} got root=3", lambda: getattr(B, name)(root=3))
