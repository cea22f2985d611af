"""The names of ``pyro.distributions.transforms``: its factories, its classes, its transforms.

A factory has Pyro's name, signature and meaning; what differs its docstring says. Common to all:
a fresh layer is near the identity, every layer inverts, events are vectors (or more) even where
the map is elementwise, and a network's activation is an option ``nonlinearity``.
"""

from pyro_nf.transforms._pyro import reexports
from pyro_nf.transforms._pyro.affine_autoregressive import (
    AffineAutoregressive,
    affine_autoregressive,
    conditional_affine_autoregressive,
)
from pyro_nf.transforms._pyro.affine_coupling import (
    AffineCoupling,
    affine_coupling,
    conditional_affine_coupling,
)
from pyro_nf.transforms._pyro.batchnorm import batchnorm, conditional_batchnorm
from pyro_nf.transforms._pyro.block_autoregressive import (
    block_autoregressive,
    conditional_block_autoregressive,
)
from pyro_nf.transforms._pyro.channel import (
    ConditionalGeneralizedChannelPermute,
    conditional_generalized_channel_permute,
    generalized_channel_permute,
)
from pyro_nf.transforms._pyro.conditional import (
    ConditionalAffineAutoregressive,
    ConditionalAffineCoupling,
    ConditionalNeuralAutoregressive,
    ConditionalSplineAutoregressive,
)
from pyro_nf.transforms._pyro.elementwise import ELUTransform, elu, leaky_relu, tanh
from pyro_nf.transforms._pyro.iterated import iterated
from pyro_nf.transforms._pyro.linear import (
    ConditionalHouseholder,
    ConditionalMatrixExponential,
    MatrixExponential,
    conditional_householder,
    conditional_matrix_exponential,
    householder,
    matrix_exponential,
)
from pyro_nf.transforms._pyro.neural_autoregressive import (
    NeuralAutoregressive,
    conditional_neural_autoregressive,
    neural_autoregressive,
)
from pyro_nf.transforms._pyro.permute import Permute, permute
from pyro_nf.transforms._pyro.polynomial import (
    Polynomial,
    conditional_polynomial,
    polynomial,
)
from pyro_nf.transforms._pyro.reexports import *  # noqa: F403
from pyro_nf.transforms._pyro.spline import (
    ConditionalSpline,
    Spline,
    conditional_spline,
    spline,
)
from pyro_nf.transforms._pyro.spline_autoregressive import (
    SplineAutoregressive,
    conditional_spline_autoregressive,
    spline_autoregressive,
)
from pyro_nf.transforms._pyro.spline_coupling import (
    SplineCoupling,
    conditional_spline_coupling,
    spline_coupling,
)
from pyro_nf.transforms._pyro.vector import (
    ConditionalPlanar,
    ConditionalRadial,
    Planar,
    Radial,
    Sylvester,
    conditional_planar,
    conditional_radial,
    conditional_sylvester,
    planar,
    radial,
    sylvester,
)

__all__ = [
    "AffineAutoregressive",
    "AffineCoupling",
    "ConditionalAffineAutoregressive",
    "ConditionalAffineCoupling",
    "ConditionalGeneralizedChannelPermute",
    "ConditionalHouseholder",
    "ConditionalMatrixExponential",
    "ConditionalNeuralAutoregressive",
    "ConditionalPlanar",
    "ConditionalRadial",
    "ConditionalSpline",
    "ConditionalSplineAutoregressive",
    "ELUTransform",
    "MatrixExponential",
    "NeuralAutoregressive",
    "Permute",
    "Planar",
    "Polynomial",
    "Radial",
    "Spline",
    "SplineAutoregressive",
    "SplineCoupling",
    "Sylvester",
    "affine_autoregressive",
    "affine_coupling",
    "batchnorm",
    "block_autoregressive",
    "conditional_affine_autoregressive",
    "conditional_affine_coupling",
    "conditional_batchnorm",
    "conditional_block_autoregressive",
    "conditional_generalized_channel_permute",
    "conditional_householder",
    "conditional_matrix_exponential",
    "conditional_neural_autoregressive",
    "conditional_planar",
    "conditional_polynomial",
    "conditional_radial",
    "conditional_spline",
    "conditional_spline_autoregressive",
    "conditional_spline_coupling",
    "conditional_sylvester",
    "elu",
    "generalized_channel_permute",
    "householder",
    "iterated",
    "leaky_relu",
    "matrix_exponential",
    "neural_autoregressive",
    "permute",
    "planar",
    "polynomial",
    "radial",
    "spline",
    "spline_autoregressive",
    "spline_coupling",
    "sylvester",
    "tanh",
]
__all__ += reexports.__all__
