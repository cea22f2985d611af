"""Flows as distributions, and base distributions as modules."""

from pyro_nf.distributions.box import UniformBox
from pyro_nf.distributions.dequantized import Dequantized
from pyro_nf.distributions.dequantized_distribution import DequantizedDistribution
from pyro_nf.distributions.flow import Flow
from pyro_nf.distributions.flow_distribution import FlowDistribution
from pyro_nf.distributions.flow_mixture import FlowMixture
from pyro_nf.distributions.mixture import GaussianMixture
from pyro_nf.distributions.mixture_of_flows import MixtureOfFlows
from pyro_nf.distributions.normal import DiagonalNormal
from pyro_nf.distributions.sequence import AutoregressivePrior, FlowSequence
from pyro_nf.distributions.student_t import StudentT

__all__ = [
    "AutoregressivePrior",
    "Dequantized",
    "DequantizedDistribution",
    "DiagonalNormal",
    "Flow",
    "FlowDistribution",
    "FlowMixture",
    "FlowSequence",
    "GaussianMixture",
    "MixtureOfFlows",
    "StudentT",
    "UniformBox",
]
