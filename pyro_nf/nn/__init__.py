"""Networks of flows: features lead and the batch follows; of images, the batch leads."""

from __future__ import annotations

from pyro_nf.nn._products import use_matrix_products
from pyro_nf.nn.block import BlockMLP
from pyro_nf.nn.conv_net import ConvNet
from pyro_nf.nn.convex import ConvexMLP
from pyro_nf.nn.field import Field
from pyro_nf.nn.field_conv import FieldConv
from pyro_nf.nn.field_mlp import FieldMLP
from pyro_nf.nn.gated_conv import GatedConvNet
from pyro_nf.nn.lipschitz import LipschitzMLP
from pyro_nf.nn.lipschitz_conv import LipschitzConvNet
from pyro_nf.nn.masked import MaskedMLP
from pyro_nf.nn.mlp import MLP
from pyro_nf.nn.potential import PotentialField
from pyro_nf.nn.residual_conv import ResidualConvNet

__all__ = [
    "MLP",
    "BlockMLP",
    "ConvNet",
    "ConvexMLP",
    "Field",
    "FieldConv",
    "FieldMLP",
    "GatedConvNet",
    "LipschitzConvNet",
    "LipschitzMLP",
    "MaskedMLP",
    "PotentialField",
    "ResidualConvNet",
    "use_matrix_products",
]
