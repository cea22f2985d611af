"""Scalar bijections: pure elementwise maths whose parameters lead.

A bijection is a value handed to a wiring of ``pyro_nf.transforms``, which says where its
parameters come from. Each offers ``param_count``, ``forward`` and ``inverse``; both directions
return the value and the elementwise log-derivative.
"""

from pyro_nf.bijections._base import ScalarBijection
from pyro_nf.bijections._root import ConvergenceError, Root
from pyro_nf.bijections.affine import Additive, Affine, GatedAffine
from pyro_nf.bijections.linear_rational import LinearRationalSpline
from pyro_nf.bijections.rational_quadratic import RationalQuadraticSpline

__all__ = [
    "Additive",
    "Affine",
    "ConvergenceError",
    "GatedAffine",
    "LinearRationalSpline",
    "RationalQuadraticSpline",
    "Root",
    "ScalarBijection",
]
