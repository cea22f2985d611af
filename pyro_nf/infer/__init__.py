"""Fitting flows: densities by maximum likelihood on Pyro's SVI."""

from __future__ import annotations

from pyro_nf.infer.density import fit_density
from pyro_nf.infer.result import FitResult

__all__ = ["FitResult", "fit_density"]
