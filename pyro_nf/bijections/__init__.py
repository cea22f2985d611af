"""Bijections: pure maths, without networks, state or Pyro.

A bijection is a value handed to a wiring of ``pyro_nf.transforms``, which says where its
parameters come from. Scalar ones are elementwise, and their parameters lead; vector ones map all
dimensions jointly, and their parameters have names. Both directions return the value and the
logarithm of the derivative or the determinant.
"""

from pyro_nf.bijections._base import ScalarBijection
from pyro_nf.bijections._root import ConvergenceError, Root
from pyro_nf.bijections._vector import VectorBijection
from pyro_nf.bijections.affine import Additive, Affine, GatedAffine
from pyro_nf.bijections.bernstein import Bernstein
from pyro_nf.bijections.chain import Chain
from pyro_nf.bijections.circular import CircularSpline
from pyro_nf.bijections.cubic import CubicSpline
from pyro_nf.bijections.exponential import MatrixExponential, Woodbury
from pyro_nf.bijections.factored import LULinear, QRLinear
from pyro_nf.bijections.integral import UnconstrainedMonotonic
from pyro_nf.bijections.linear import LinearSpline
from pyro_nf.bijections.linear_rational import LinearRationalSpline
from pyro_nf.bijections.mixture import GaussianMixtureProbit, LogisticMixture
from pyro_nf.bijections.orthogonal import Householder, Rotation
from pyro_nf.bijections.planar import Planar
from pyro_nf.bijections.quadratic import QuadraticSpline
from pyro_nf.bijections.radial import Radial
from pyro_nf.bijections.rational_quadratic import RationalQuadraticSpline
from pyro_nf.bijections.sigmoidal import DeepDenseSigmoidal, DeepSigmoidal
from pyro_nf.bijections.sum_of_squares import SumOfSquares
from pyro_nf.bijections.sylvester import Sylvester
from pyro_nf.bijections.tails import SinhArcsinh, SoftLog, TailTransform
from pyro_nf.bijections.triangular import DiagonalScale, TriangularAffine

__all__ = [
    "Additive",
    "Affine",
    "Bernstein",
    "Chain",
    "CircularSpline",
    "ConvergenceError",
    "CubicSpline",
    "DeepDenseSigmoidal",
    "DeepSigmoidal",
    "DiagonalScale",
    "GatedAffine",
    "GaussianMixtureProbit",
    "Householder",
    "LULinear",
    "LinearRationalSpline",
    "LinearSpline",
    "LogisticMixture",
    "MatrixExponential",
    "Planar",
    "QRLinear",
    "QuadraticSpline",
    "Radial",
    "RationalQuadraticSpline",
    "Root",
    "Rotation",
    "ScalarBijection",
    "SinhArcsinh",
    "SoftLog",
    "SumOfSquares",
    "Sylvester",
    "TailTransform",
    "TriangularAffine",
    "UnconstrainedMonotonic",
    "VectorBijection",
    "Woodbury",
]
