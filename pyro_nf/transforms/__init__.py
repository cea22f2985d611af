"""Layers of flows: Pyro transforms with parameters, all invertible, all of one contract."""

from pyro_nf.transforms._contract.protocol import FlowTransform
from pyro_nf.transforms._partition import coupling_mask
from pyro_nf.transforms._pyro import *  # noqa: F403  (the names of pyro.distributions.transforms)
from pyro_nf.transforms._pyro import __all__ as _pyro_names
from pyro_nf.transforms.actnorm import ActNorm
from pyro_nf.transforms.actnorm2d import ActNorm2d
from pyro_nf.transforms.autoregressive import Autoregressive
from pyro_nf.transforms.batchnorm import BatchNorm
from pyro_nf.transforms.block_autoregressive import BlockAutoregressive
from pyro_nf.transforms.channel import GeneralizedChannelPermute
from pyro_nf.transforms.compose import Compose
from pyro_nf.transforms.continuous import Continuous, Evaluations, IntegrationError
from pyro_nf.transforms.conv1x1 import InvertibleConv1x1
from pyro_nf.transforms.convex_potential import ConvexPotential
from pyro_nf.transforms.coupling import Coupling
from pyro_nf.transforms.coupling2d import Coupling2d
from pyro_nf.transforms.elementwise import Elementwise
from pyro_nf.transforms.emerging import EmergingConv2d
from pyro_nf.transforms.haar import HaarDownsampling
from pyro_nf.transforms.householder import Householder
from pyro_nf.transforms.inverse import Inverse
from pyro_nf.transforms.joint import Joint
from pyro_nf.transforms.logit import Logit
from pyro_nf.transforms.lu import LULinear
from pyro_nf.transforms.multi_level import MultiLevel
from pyro_nf.transforms.periodic import PeriodicConv2d
from pyro_nf.transforms.permutation import Permutation
from pyro_nf.transforms.qr import QRLinear
from pyro_nf.transforms.reshape import Flatten, Reshape
from pyro_nf.transforms.residual import InvertibleResidual, LogDetSeries
from pyro_nf.transforms.residual2d import InvertibleResidual2d
from pyro_nf.transforms.rotation import Rotation
from pyro_nf.transforms.scale import DiagonalScale
from pyro_nf.transforms.squeeze import Squeeze, Unsqueeze
from pyro_nf.transforms.standardize import Standardize
from pyro_nf.transforms.support import ToSupport
from pyro_nf.transforms.triangular import TriangularAffine

# Under Pyro's own names stands the chain that costs one pass for each part.
ComposeTransform = Compose
ComposeTransformModule = Compose
ConditionalComposeTransformModule = Compose

__all__ = [
    "ActNorm",
    "ActNorm2d",
    "Autoregressive",
    "BatchNorm",
    "BlockAutoregressive",
    "Compose",
    "ComposeTransform",
    "ComposeTransformModule",
    "ConditionalComposeTransformModule",
    "Continuous",
    "ConvexPotential",
    "Coupling",
    "Coupling2d",
    "DiagonalScale",
    "Elementwise",
    "EmergingConv2d",
    "Evaluations",
    "Flatten",
    "FlowTransform",
    "GeneralizedChannelPermute",
    "HaarDownsampling",
    "Householder",
    "IntegrationError",
    "Inverse",
    "InvertibleConv1x1",
    "InvertibleResidual",
    "InvertibleResidual2d",
    "Joint",
    "LULinear",
    "LogDetSeries",
    "Logit",
    "MultiLevel",
    "PeriodicConv2d",
    "Permutation",
    "QRLinear",
    "Reshape",
    "Rotation",
    "Squeeze",
    "Standardize",
    "ToSupport",
    "TriangularAffine",
    "Unsqueeze",
    "coupling_mask",
]
__all__ += _pyro_names
