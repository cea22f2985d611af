"""The registry: one case for each way of building a public layer or flow.

Every test of the contract runs over all cases. A public name that no case covers fails
``test_registry.py``.
"""

from __future__ import annotations

import cases_core
from case import Case, build, inputs, perturb

CASES = [case for family in (cases_core,) for case in family.CASES]

# Public names that are no layers or flows; each has tests of its own.
COVERED_ELSEWHERE = {
    "ConvergenceError": "test_root.py",
    "DiagonalNormal": "test_bases.py",
    "Flow": "test_flow_distribution.py",
    "FlowDistribution": "test_flow_distribution.py",
    "FlowTransform": "abstract",
    "GaussianMixture": "test_bases.py",
    "Root": "test_root.py",
    "ScalarBijection": "abstract",
    "StudentT": "test_bases.py",
    "UniformBox": "test_bases.py",
}

__all__ = ["CASES", "COVERED_ELSEWHERE", "Case", "build", "inputs", "perturb"]
