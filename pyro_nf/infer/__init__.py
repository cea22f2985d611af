"""Fitting flows: densities by maximum likelihood on Pyro's SVI, vector fields by regression."""

from __future__ import annotations

from pyro_nf.infer.density import fit_density
from pyro_nf.infer.flow_matching import fit_flow_matching
from pyro_nf.infer.result import FitResult

__all__ = ["FitResult", "fit_density", "fit_flow_matching"]
