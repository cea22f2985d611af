"""The registry: one case for each way of building a public layer or flow.

Every test of the contract runs over all cases. A public name that no case covers fails
``test_registry.py``.
"""

from __future__ import annotations

import cases_block
import cases_continuous
import cases_convex
import cases_core
import cases_images
import cases_images_layers
import cases_images_logit
import cases_images_residual
import cases_pyro
import cases_residual
import cases_sigmoidal
import cases_splines
import cases_tails
import cases_vector
from case import Case, base_of, build, inputs, norms, perturb

from pyro_nf import flows

CASES = [
    case
    for family in (
        cases_core,
        cases_block,
        cases_residual,
        cases_convex,
        cases_continuous,
        cases_sigmoidal,
        cases_splines,
        cases_vector,
        cases_tails,
        cases_images_layers,
        cases_images_logit,
        cases_images_residual,
        cases_images,
        cases_pyro,
    )
    for case in family.CASES
]

# The named flows of vectors, and those that take the shape of an image.
VECTOR_FLOWS = sorted(set(flows.__all__) - {"dequantizer", "glow"})
IMAGE_FLOWS = ["cnf", "flow_plus_plus", "glow", "realnvp", "residual_flow"]

# Public names that are no layers or flows; each has tests of its own.
COVERED_ELSEWHERE = {
    "AutoregressivePrior": "test_sequence.py",
    "ConvergenceError": "test_root.py",
    "Dequantized": "test_dequantized.py",
    "DequantizedDistribution": "test_dequantized.py",
    "DiagonalNormal": "test_bases.py",
    "Evaluations": "test_continuous.py",
    "Flow": "test_flow_distribution.py",
    "FlowDistribution": "test_flow_distribution.py",
    "FlowMixture": "test_structure.py",
    "FlowSequence": "test_sequence.py",
    "FlowTransform": "abstract",
    "GaussianMixture": "test_bases.py",
    "IntegrationError": "test_continuous.py",
    "LogDetSeries": "test_residual.py",
    "MixtureOfFlows": "test_structure.py",
    "Root": "test_root.py",
    "ScalarBijection": "abstract",
    "StudentT": "test_bases.py",
    "UniformBox": "test_bases.py",
    "VectorBijection": "abstract",
    **dict.fromkeys(cases_pyro.ELSEWHERE, "test_pyro_names.py"),
}

__all__ = [
    "CASES",
    "COVERED_ELSEWHERE",
    "IMAGE_FLOWS",
    "VECTOR_FLOWS",
    "Case",
    "base_of",
    "build",
    "inputs",
    "norms",
    "perturb",
]
