"""Cases of the layers under Pyro's names, and of those over a user's own network."""

from __future__ import annotations

from functools import partial

import torch
from case import Case
from torch import Tensor, nn

from pyro_nf import transforms as T  # noqa: N812
from pyro_nf.nn import MLP, MaskedMLP
from pyro_nf.transforms import _pyro as names

SMOOTH = {"hidden_dims": (6,), "nonlinearity": "silu"}


class GivenDense(nn.Module):
    """A dense network after the manner of Pyro's: features last, a tuple of parameters."""

    def __init__(
        self, input_dim: int, param_dims: list[int], context_dim: int = 0, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.input_dim, self.param_dims, self.context_dim = input_dim, param_dims, context_dim
        self.scale = scale
        self.mlp = MLP(
            input_dim, sum(param_dims), (6,), context_dim=context_dim, activation="silu"
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        made = self.scale * self.mlp(x.movedim(-1, 0), context).movedim(0, -1)
        return made.split(self.param_dims, -1) if len(self.param_dims) > 1 else made


class GivenArn(nn.Module):
    """An autoregressive network after the manner of Pyro's: features last, an order."""

    permutation: Tensor

    def __init__(
        self, permutation: list[int], param_dims: list[int], context_dim: int = 0
    ) -> None:
        super().__init__()
        self.register_buffer("permutation", torch.tensor(permutation))
        self.param_dims, self.context_dim = param_dims, context_dim
        self.mlp = MaskedMLP(
            len(permutation),
            sum(param_dims),
            (6,),
            order=permutation,
            context_dim=context_dim,
            activation="silu",
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, ...]:
        made = self.mlp(x.movedim(-1, 0), context)
        shape = (sum(self.param_dims), x.shape[-1], *x.shape[:-1])
        return made.view(shape).movedim((0, 1), (-2, -1)).split(self.param_dims, -2)


def _case(name: str, build: object, *covers: str, **truths: object) -> Case:
    return Case(f"pyro-{name}", build, covers, **truths)


ORDER = [2, 0, 3, 1]
SPLINE = [4 * 5, 4 * 5, 4 * 4, 4 * 5]

CASES = [
    _case(
        "affine_autoregressive",
        partial(T.affine_autoregressive, 4, permutation=ORDER, **SMOOTH),
        "affine_autoregressive",
        "AffineAutoregressive",
    ),
    _case(
        "affine_autoregressive-context",
        partial(T.conditional_affine_autoregressive, 4, 3, parity=1, **SMOOTH),
        "conditional_affine_autoregressive",
        "ConditionalAffineAutoregressive",
        context_dim=3,
    ),
    _case(
        "affine_autoregressive-given",
        lambda: T.AffineAutoregressive(GivenArn(ORDER, [1, 1])),
        "AffineAutoregressive",
    ),
    _case(
        "affine_coupling",
        partial(T.affine_coupling, 5, parity=1, **SMOOTH),
        "affine_coupling",
        "AffineCoupling",
        input_dim=5,
    ),
    _case(
        "affine_coupling-context",
        partial(T.conditional_affine_coupling, 4, 3, split_dim=1, **SMOOTH),
        "conditional_affine_coupling",
        "ConditionalAffineCoupling",
        context_dim=3,
    ),
    _case(
        "affine_coupling-one-dim",
        partial(T.affine_coupling, 1, parity=1, **SMOOTH),
        "affine_coupling",
        input_dim=1,
    ),
    _case("spline", partial(T.spline, 4, order="quadratic", count_bins=5), "Spline", "spline"),
    _case(
        "spline-context",
        partial(T.conditional_spline, 4, 3, count_bins=5, **SMOOTH),
        "conditional_spline",
        context_dim=3,
    ),
    _case(
        "spline-given-context",
        lambda: T.ConditionalSpline(GivenDense(3, SPLINE), 4, 5),
        "ConditionalSpline",
        context_dim=3,
        fresh_is_identity=False,
    ),
    _case(
        "spline_autoregressive",
        partial(T.spline_autoregressive, 4, count_bins=5, **SMOOTH),
        "spline_autoregressive",
        "SplineAutoregressive",
    ),
    _case(
        "spline_autoregressive-context",
        partial(
            T.conditional_spline_autoregressive, 4, 3, count_bins=5, order="quadratic", **SMOOTH
        ),
        "conditional_spline_autoregressive",
        context_dim=3,
    ),
    _case(
        "spline_autoregressive-given-context",
        lambda: T.SplineAutoregressive(4, GivenArn(ORDER, [5, 5, 4, 5], 3), 5),
        "ConditionalSplineAutoregressive",
        context_dim=3,
        fresh_is_identity=False,
    ),
    _case(
        "spline_coupling",
        partial(T.spline_coupling, 5, count_bins=5, order="quadratic", **SMOOTH),
        "spline_coupling",
        "SplineCoupling",
        input_dim=5,
    ),
    _case(
        "spline_coupling-context",
        partial(T.conditional_spline_coupling, 4, 3, count_bins=5, parity=1, **SMOOTH),
        "conditional_spline_coupling",
        context_dim=3,
    ),
    _case(
        "neural_autoregressive",
        partial(T.neural_autoregressive, 3, width=4, **SMOOTH),
        "neural_autoregressive",
        "NeuralAutoregressive",
        input_dim=3,
        fresh_is_identity=False,
        compiles="forward",  # a search for a root is no graph
    ),
    _case(
        "neural_autoregressive-given-context",
        lambda: T.NeuralAutoregressive(GivenArn([1, 0, 2], [4, 4, 4], 3), 4, "tanh"),
        "ConditionalNeuralAutoregressive",
        input_dim=3,
        context_dim=3,
        fresh_is_identity=False,
    ),
    _case(
        "polynomial",
        partial(T.polynomial, 3, count_degree=2, count_sum=2, **SMOOTH),
        "polynomial",
        "Polynomial",
        input_dim=3,
        compiles="forward",
        largest_scale=1.0,
    ),
    _case(
        "polynomial-given-context",
        lambda: T.Polynomial(GivenArn([1, 0, 2], [6], 3), 3, 2, 2),
        "Polynomial",
        input_dim=3,
        context_dim=3,
        largest_scale=1.0,
    ),
    _case("permute", partial(T.permute, 4), "Permute", "permute", fresh_is_identity=False),
    _case(
        "matrix_exponential",
        partial(T.matrix_exponential, 4, normalization="spectral", bound=2.0),
        "MatrixExponential",
        "matrix_exponential",
    ),
    _case(
        "matrix_exponential-given-context",
        lambda: T.ConditionalMatrixExponential(
            4, GivenDense(3, [16], scale=0.2), normalization="weight", bound=2.0
        ),
        "ConditionalMatrixExponential",
        context_dim=3,
    ),
    _case(
        "householder-given-context",
        lambda: T.ConditionalHouseholder(4, GivenDense(3, [4, 4]), 2),
        "ConditionalHouseholder",
        context_dim=3,
    ),
    _case(
        "planar-given-context",
        lambda: T.ConditionalPlanar(GivenDense(3, [1, 4, 4])),
        "ConditionalPlanar",
        context_dim=3,
    ),
    _case(
        "radial-given-context",
        lambda: T.ConditionalRadial(GivenDense(3, [4, 1, 1])),
        "ConditionalRadial",
        context_dim=3,
    ),
]

# Factories of layers that have cases of their own, layers of images, and what has no parameters.
ELSEWHERE = {
    *names.reexports.__all__,
    "ConditionalGeneralizedChannelPermute",
    "ELUTransform",
    "batchnorm",
    "block_autoregressive",
    "conditional_batchnorm",
    "conditional_block_autoregressive",
    "conditional_generalized_channel_permute",
    "conditional_householder",
    "conditional_matrix_exponential",
    "conditional_neural_autoregressive",
    "conditional_planar",
    "conditional_polynomial",
    "conditional_radial",
    "conditional_sylvester",
    "elu",
    "generalized_channel_permute",
    "householder",
    "iterated",
    "leaky_relu",
    "planar",
    "radial",
    "sylvester",
    "tanh",
}
