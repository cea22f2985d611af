"""The scalar bijections under test, and inputs for them."""

from __future__ import annotations

import pytest
import torch

from pyro_nf import bijections as B

SPLINES = {
    "quadratic": B.RationalQuadraticSpline(bins=8),
    "quadratic-learned": B.RationalQuadraticSpline(
        bins=5, bound=3.0, boundary_slopes="learned", min_bin=1e-2
    ),
    "quadratic-two-bins": B.RationalQuadraticSpline(bins=2, bound=3),
    "linear": B.LinearRationalSpline(bins=8),
    "linear-learned": B.LinearRationalSpline(
        bins=5, bound=3.0, boundary_slopes="learned", min_lambda=0.1
    ),
}
QUADRATIC = [name for name in SPLINES if name.startswith("quadratic")]
UNIT_SPLINES = {
    "piecewise-linear": B.LinearSpline(bins=8, bound=4.0),
    "piecewise-quadratic": B.QuadraticSpline(bins=8, bound=4.0),
    "cubic": B.CubicSpline(bins=8, bound=4.0),
}
POLYNOMIALS = {
    "bernstein": B.Bernstein(degree=8, bound=4.0),
    "sos": B.SumOfSquares(),
}
ALL = {
    "additive": B.Additive(),
    "affine": B.Affine(),
    "affine-narrow": B.Affine(max_log_scale=1.0),
    "gated": B.GatedAffine(),
    **SPLINES,
    **UNIT_SPLINES,
    **POLYNOMIALS,
}
DIRECTIONS = ("forward", "inverse")

each_bijection = pytest.mark.parametrize("bijection", ALL.values(), ids=ALL)
each_spline = pytest.mark.parametrize("spline", SPLINES.values(), ids=SPLINES)
each_quadratic = pytest.mark.parametrize("spline", [SPLINES[q] for q in QUADRATIC], ids=QUADRATIC)
each_direction = pytest.mark.parametrize("direction", DIRECTIONS)


def random_inputs(bijection, shape, scale=1.0, dtype=torch.float64, spread=3.0):
    x = torch.randn(shape, dtype=dtype) * spread
    params = torch.randn((bijection.param_count, *shape), dtype=dtype) * scale
    return x, params
